// The running kernel, as the files that emulate one see it.
#pragma once
#include <csetjmp>
#include <string>
#include <vector>

#include "driver.h"

namespace emulator {

enum class State : unsigned char { kReady, kAtBarrier, kAtCollective, kDone };

// A copy that cp.async has begun and that no wait has finished.
struct PendingCopy {
  void* shared;
  const void* global;
  bool valid;
  int line;
};

struct Fiber {
  void* stack_pointer;
  unsigned char* stack;  // lowest address
  Thread thread;
  State state;
  const char* waits_at;
  int line;
  std::vector<PendingCopy> copies;    // oldest first
  std::vector<unsigned> copy_groups;  // copies in each committed group, oldest first
  unsigned uncommitted;
};

// Lanes of one warp that meet under one mask. Two sets of slots, so that quick lanes can give to
// the next meeting while slow ones still read this one.
struct Meeting {
  unsigned mask = 0, arrived = 0, reading = 0, turn = 0;
  const char* what = nullptr;
  int line = 0;
  Slot slots[2][32];
};

struct Warp {
  unsigned ready = 0;  // lanes that can run
  std::vector<std::unique_ptr<Meeting>> meetings;
};

struct Barrier {
  unsigned arrived = 0, nonzero = 0;
  const char* what = nullptr;
  int line = 0;
  unsigned first = 0;  // the thread that came first
  BarrierCount last;   // of the barrier that all have just left
};

struct Kernel {
  const Launch* launch = nullptr;
  unsigned threads = 0, warps = 0, live = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warp_states;
  Barrier barrier;
  Fiber* current = nullptr;
  void* scheduler_stack = nullptr;
  sigjmp_buf fault_jump;
  Result failure = kSuccess;
  std::string message;
  void* fault_pc = nullptr;     // the instruction to blame, where it is known
  bool stacks_stale = true;  // fibers must start from an empty stack
  unsigned char* dynamic_limit = nullptr;  // one past the end of dynamic shared memory
};
extern Kernel& running_kernel;  // lives as long as the process
inline Kernel& kernel() { return running_kernel; }

// Ends the running kernel from inside one of its threads.
[[noreturn]] void fail_thread(Result result, const std::string& what);
std::string place_of(const Fiber& fiber);
bool in_shared_memory(const void* address, size_t bytes);
void finish_copies(Fiber& fiber, unsigned groups_under_way);

// races.cpp
void races_begin_launch();
void races_begin_block();
void races_settle();  // before a thread stops
void races_barrier();
void races_collective(unsigned warp);
void races_write(const void* address, size_t bytes);
void races_forget(const void* address, size_t bytes);

// faults.cpp: between these two a fault of this thread belongs to the kernel.
void faults_begin();
void faults_end();
std::string fault_message();
std::string line_of(void* instruction);  // " at file:line", or nothing
Result fault_result();

}  // namespace emulator
