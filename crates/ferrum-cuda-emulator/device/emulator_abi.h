// What an emulated kernel (compiled by g++ into a module) and the emulated driver share.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index3 {
  unsigned x, y, z;
};

// What one emulated thread knows of itself.
struct Thread {
  Index3 thread, block, block_size, grid_size;
  unsigned lane, warp;
};

// What one lane gives to, or takes from, a warp collective.
struct Slot {
  alignas(16) unsigned char bytes[64];
};

// An entry point. `pack` copies the arguments of a launch, `run` is the body of one thread.
struct KernelEntry {
  const char* name;
  unsigned max_threads;
  unsigned arguments;
  uint64_t pointers;  // bit i: argument i is a pointer
  size_t argument_bytes;
  void (*pack)(void* const* arguments, void* packed);
  void (*run)(const void* packed);
};

struct BarrierCount {
  unsigned nonzero;  // threads that came with a predicate other than zero
  unsigned threads;  // threads that came
};

// What a lane gives to an mma: its fragments; and gets back in the same place: its part of a·b.
template <class Sum>
struct Fragments {
  unsigned a[4], b[2];
  Sum product[4];
};

// Runs once, in the lane that arrives last, over what all lanes gave.
typedef void (*Leader)(Slot* slots);

}  // namespace emulator

extern "C" {
// The thread that runs now. One kernel runs at a time in the process, under the driver's lock.
extern emulator::Thread* emulator_thread;
extern unsigned char* emulator_dynamic_shared;

// Set around atomic accesses, which are no races.
extern int emulator_in_atomic;

// Called by a module's constructors while the driver loads it.
void emulator_register_kernel(const emulator::KernelEntry* entry);
void emulator_register_shared(void* begin, void* end);

emulator::BarrierCount emulator_barrier(int predicate, const char* what, int line);
// All lanes of `mask` meet; each gets the slots of all of them.
const emulator::Slot* emulator_collective(unsigned mask, const void* given, size_t bytes,
                                          const char* what, int line, emulator::Leader leader);
// Ends the kernel with an error that names the thread.
[[noreturn]] void emulator_fail(const char* message, int line);

void emulator_copy_async(void* shared, const void* global, bool valid, int line);
void emulator_copy_commit();
// Leaders of mma.
void emulator_multiply_f16(emulator::Slot* slots);
void emulator_multiply_bf16(emulator::Slot* slots);
void emulator_multiply_s8(emulator::Slot* slots);
void emulator_multiply_s8_k16(emulator::Slot* slots);
// Fails unless the 16 bytes are aligned, in shared memory, and written.
void emulator_require_matrix_row(const void* row, const char* what, int line);
void emulator_copy_wait(unsigned groups_under_way);
}
