// Races in shared memory, found by rules and not by luck: two threads may touch the same bytes, one
// of them writing, only with a barrier (within a warp: a warp collective) between. Modules that are
// compiled with FERRUM_EMULATOR_RACES=1 call the functions at the end at every access (those of
// g++ -fsanitize=thread). Also finds reads of what no thread of the block has written.
#include <algorithm>
#include <cstring>
#include <vector>

#include "scheduler.h"

EXPORT int emulator_in_atomic = 0;

namespace emulator {

namespace {
constexpr uint16_t kSeveral = 0xffff;  // threads of different warps have read

// When and by whom: `epoch` counts the block's barriers, `turn` the warp's collectives.
struct Access {
  uint32_t epoch = 0, turn = 0;
  uint16_t thread = 0;
  uint8_t bytes = 0;      // which of the word's four
  bool lanes = false;     // several lanes of the thread's warp have read
  bool agreed = false;    // other threads have written the same value
};

// What is known of four bytes of shared memory.
struct Word {
  Access write, read;
  uint32_t block = 0;     // the epoch in which the block began that the next two speak of
  uint8_t written = 0;    // bytes that hold something
};

struct Region {
  const unsigned char* begin = nullptr;
  size_t bytes = 0;
  std::vector<Word> words;

  void set(const unsigned char* at, size_t size) {
    begin = at;
    bytes = size;
    if (words.size() < size / 4 + 2) words.resize(size / 4 + 2);
  }
  bool has(const unsigned char* at) const { return size_t(at - begin) < bytes; }
};

Region dynamic_region, static_region;
uint32_t epoch = 1, block_epoch = 1;
uint32_t turns[kMaxThreads / 32];

// A write that nothing orders after another thread's access, before it happens: if it turns out
// to leave the value as it was, no harm is done.
struct Doubt {
  Word* word;
  const unsigned char* at;
  unsigned char old[4];
  uint8_t bytes;
  const char* first;
  Access earlier;
  void* pc;
};
std::vector<Doubt> doubts;

// Whether nothing orders an earlier access before one of this thread now.
bool unordered(const Access& earlier, const Thread& now, uint16_t thread) {
  if (!earlier.bytes || earlier.epoch != epoch) return false;
  if (earlier.thread == kSeveral) return true;
  if (earlier.thread / 32 != now.warp) return true;
  return (earlier.thread != thread || earlier.lanes) && earlier.turn == turns[now.warp];
}

std::string name_of(uint16_t thread) {
  return thread == kSeveral ? "several threads" : "thread " + std::to_string(thread);
}

[[noreturn]] void report(const char* first, const Access& earlier, const char* second, void* pc) {
  kernel().fault_pc = pc;
  fail_thread(kLaunchFailed, std::string("race in shared memory: no barrier between a ") + first +
                                 " of " + name_of(earlier.thread) + " and this " + second);
}

void note(Access& access, uint16_t thread, uint8_t bytes) {
  access = {epoch, turns[thread / 32], thread, bytes, false, false};
}

void note_read(Access& access, uint16_t thread, uint8_t bytes) {
  bool fresh = access.bytes && access.epoch == epoch;
  if (!fresh || access.thread == thread) return note(access, thread, bytes);
  access.bytes |= bytes;
  if (access.thread == kSeveral || access.thread / 32 != thread / 32) {
    access.thread = kSeveral;
  } else {
    access.lanes = access.turn == turns[thread / 32];
    access.turn = turns[thread / 32];
    access.thread = thread;
  }
}

void check_word(Word& word, const unsigned char* at, uint8_t bytes, bool write, void* pc) {
  const Thread& now = kernel().current->thread;
  uint16_t thread = (uint16_t)(32 * now.warp + now.lane);
  if (word.block != block_epoch) word.block = block_epoch, word.written = 0;
  if (emulator_in_atomic) {
    word.written |= bytes;
    return;
  }
  bool after_write = word.write.thread != thread && (word.write.bytes & bytes) &&
                     unordered(word.write, now, thread);
  if (!write) {
    if (after_write && !word.write.agreed) report("write", word.write, "read", pc);
    if ((word.written & bytes) != bytes) {
      kernel().fault_pc = pc;
      fail_thread(kLaunchFailed, "read of shared memory that nothing has written");
    }
    return note_read(word.read, thread, bytes);
  }
  bool after_read = (word.read.bytes & bytes) && unordered(word.read, now, thread);
  bool known = (word.written & bytes) == bytes;
  word.written |= bytes;
  if (!after_write && !after_read) return note(word.write, thread, bytes);
  Doubt doubt{&word, at, {}, bytes, after_write ? "write" : "read",
              after_write ? word.write : word.read, pc};
  if (!known) report(doubt.first, doubt.earlier, "write", pc);
  memcpy(doubt.old, at, 4);
  doubts.push_back(doubt);
}

void settle() {
  for (const Doubt& doubt : doubts)
    for (int i = 0; i < 4; i++)
      if ((doubt.bytes >> i & 1) && doubt.at[i] != doubt.old[i]) {
        Doubt found = doubt;
        doubts.clear();
        report(found.first, found.earlier, "write", found.pc);
      }
  for (const Doubt& doubt : doubts) doubt.word->write.agreed = true;
  doubts.clear();
}

void check_region(Region& region, const unsigned char* at, size_t size, bool write, void* pc) {
  for (size_t offset = (size_t)(at - region.begin), end = offset + size; offset < end;) {
    size_t in_word = offset % 4, count = std::min(4 - in_word, end - offset);
    check_word(region.words[offset / 4], region.begin + offset / 4 * 4, (uint8_t)(((1u << count) - 1) << in_word), write, pc);
    offset += count;
  }
}

inline void check(const void* address, size_t size, bool write, void* pc) {
  if (!doubts.empty()) settle();
  auto* at = static_cast<const unsigned char*>(address);
  if (dynamic_region.has(at)) check_region(dynamic_region, at, size, write, pc);
  else if (static_region.has(at)) check_region(static_region, at, size, write, pc);
}
}  // namespace

void races_begin_launch() {
  const Launch& launch = *kernel().launch;
  const Module* module = launch.function->module;
  dynamic_region.set(emulator_dynamic_shared, launch.dynamic_shared);
  static_region.set(module->shared_begin, (size_t)(module->shared_end - module->shared_begin));
  emulator_in_atomic = 0;
  doubts.clear();
}
void races_settle() {
  if (!doubts.empty()) settle();
}
void races_begin_block() { block_epoch = ++epoch; }
void races_barrier() { epoch++; }
void races_collective(unsigned warp) { turns[warp]++; }

void races_write(const void* address, size_t bytes) {
  if (kernel().launch->function->module->checks_races)
    check(address, bytes, true, __builtin_return_address(0));
}
// A copy has begun: until it arrives there is nothing to read.
void races_forget(const void* address, size_t bytes) {
  if (!kernel().launch->function->module->checks_races) return;
  auto* at = static_cast<const unsigned char*>(address);
  Region& region = dynamic_region.has(at) ? dynamic_region : static_region;
  for (size_t i = 0; i < bytes; i += 4) region.words[(size_t)(at + i - region.begin) / 4].written = 0;
}

}  // namespace emulator

using emulator::check;

#define ACCESS(name, size, write) \
  EXPORT void name(void* address) { check(address, size, write, __builtin_return_address(0)); }
#define ACCESSES(size)                                    \
  ACCESS(__tsan_read##size, size, false)                  \
  ACCESS(__tsan_write##size, size, true)                  \
  ACCESS(__tsan_unaligned_read##size, size, false)        \
  ACCESS(__tsan_unaligned_write##size, size, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
EXPORT void __tsan_read_range(void* address, size_t size) {
  check(address, size, false, __builtin_return_address(0));
}
EXPORT void __tsan_write_range(void* address, size_t size) {
  check(address, size, true, __builtin_return_address(0));
}
// A module that calls this is one that checks.
EXPORT void __tsan_init() { emulator::loading_checks_races(); }
EXPORT void __tsan_func_entry(void*) {}
EXPORT void __tsan_func_exit() {}
EXPORT void* __tsan_memcpy(void* to, const void* from, size_t n) { return __builtin_memcpy(to, from, n); }
EXPORT void* __tsan_memset(void* to, int value, size_t n) { return __builtin_memset(to, value, n); }
