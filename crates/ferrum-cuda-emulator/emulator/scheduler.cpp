// Runs a kernel's blocks one after another, the threads of a block as fibers that switch at
// barriers and warp collectives.
#include "scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

EXPORT emulator::Thread* emulator_thread = nullptr;
EXPORT unsigned char* emulator_dynamic_shared = nullptr;

// Saves the registers that a call keeps, stores the stack pointer, and goes on with another stack.
extern "C" void emulator_switch(void** save, void* to);
asm(R"(
.text
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  pop %rcx
  jmp *%rcx
)");

namespace emulator {

constexpr size_t kStackBytes = 64 << 10, kGuardBytes = 4096;

Kernel& running_kernel = *new Kernel;

void poison(void* begin, size_t bytes) {
  auto* words = static_cast<uint32_t*>(begin);
  std::fill(words, words + bytes / 4, kPoison);
  memset(words + bytes / 4, 0x7f, bytes % 4);
}

std::string place_of(const Fiber& fiber) {
  const Thread& t = fiber.thread;
  char text[160];
  snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", t.block.x, t.block.y,
           t.block.z, t.thread.x, t.thread.y, t.thread.z);
  return text;
}

static void to_scheduler() {
  emulator_switch(&kernel().current->stack_pointer, kernel().scheduler_stack);
}

void fail_thread(Result result, const std::string& what) {
  Kernel& k = kernel();
  if (k.failure == kSuccess) {
    k.failure = result;
    k.message = what + ", " + place_of(*k.current);
  }
  to_scheduler();
  __builtin_unreachable();
}

// --- fibers

// One thread of every block, for as long as nothing fails.
static void fiber_main() {
  Kernel& k = kernel();
  for (;;) {
    k.launch->function->entry->run(k.launch->packed.data());
    races_settle();
    k.current->state = State::kDone;
    if (!k.current->copies.empty()) finish_copies(*k.current, 0);
    k.live--;
    to_scheduler();
  }
}

static void make_fibers() {
  Kernel& k = kernel();
  if (!k.fibers.empty()) return;
  k.fibers.resize(kMaxThreads);
  k.warp_states.resize(kMaxThreads / 32);
  size_t each = kStackBytes + kGuardBytes;
  auto* stacks = static_cast<unsigned char*>(
      mmap(nullptr, each * kMaxThreads, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (unsigned i = 0; i < kMaxThreads; i++) {
    mprotect(stacks + i * each, kGuardBytes, PROT_NONE);
    k.fibers[i].stack = stacks + i * each + kGuardBytes;
  }
}

// Staggered, or the tops of all stacks would fall into the same cache sets.
static void reset_stack(Fiber& fiber, unsigned index) {
  auto* top = reinterpret_cast<void**>(fiber.stack + kStackBytes - (index % 64) * 320);
  *--top = nullptr;  // fiber_main's return address, never used
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int registers = 0; registers < 6; registers++) *--top = nullptr;
  fiber.stack_pointer = top;
}

static unsigned char* dynamic_shared_limit() {
  static unsigned char* limit = [] {
    size_t bytes = 256 << 10;
    auto* area = static_cast<unsigned char*>(mmap(nullptr, bytes + 2 * kGuardBytes, PROT_NONE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(area + kGuardBytes, bytes, PROT_READ | PROT_WRITE);
    return area + kGuardBytes + bytes;
  }();
  return limit;
}

bool in_shared_memory(const void* address, size_t bytes) {
  const Kernel& k = kernel();
  auto* at = static_cast<const unsigned char*>(address);
  const Module* module = k.launch->function->module;
  bool dynamic = at >= emulator_dynamic_shared &&
                 at + bytes <= emulator_dynamic_shared + k.launch->dynamic_shared;
  return dynamic || (at >= module->shared_begin && at + bytes <= module->shared_end);
}

// --- the order of blocks, warps and lanes

// A small generator (xorshift): the same numbers in every launch.
struct Random {
  uint64_t state = 0x9e3779b97f4a7c15;
  unsigned below(unsigned n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 33) % n);
  }
};

class Order {
 public:
  Order(Schedule schedule, unsigned warps, uint64_t blocks)
      : schedule_(schedule), warps_(warps), blocks_(blocks) {
    std::iota(lane_order_, lane_order_ + 32, 0);
    std::iota(warp_order_, warp_order_ + warps, 0);
    if (schedule == Schedule::kReverse) std::reverse(lane_order_, lane_order_ + 32);
    if (schedule == Schedule::kReverse) std::reverse(warp_order_, warp_order_ + warps);
    // Blocks i * step + start (mod blocks) are a permutation if step has no common divisor.
    start_ = random_.below((unsigned)std::min<uint64_t>(blocks, UINT32_MAX));
    do step_ = 1 + random_.below((unsigned)std::min<uint64_t>(blocks, UINT32_MAX));
    while (std::gcd(step_, blocks) != 1);
  }

  uint64_t block(uint64_t i) const {
    if (schedule_ == Schedule::kForward) return i;
    if (schedule_ == Schedule::kReverse) return blocks_ - 1 - i;
    return (uint64_t)(((__uint128_t)i * step_ + start_) % blocks_);
  }
  unsigned warp(unsigned i) const { return warp_order_[i]; }
  unsigned lane(unsigned i) const { return lane_order_[i]; }
  bool lanes_ascend() const { return schedule_ == Schedule::kForward; }

  // Before each round over the warps.
  void shuffle() {
    if (schedule_ != Schedule::kRandom) return;
    for (unsigned i = warps_; i > 1; i--) std::swap(warp_order_[i - 1], warp_order_[random_.below(i)]);
    for (unsigned i = 32; i > 28; i--) std::swap(lane_order_[i - 1], lane_order_[random_.below(i)]);
  }

 private:
  Schedule schedule_;
  unsigned warps_;
  uint64_t blocks_, start_, step_;
  Random random_;
  unsigned lane_order_[32], warp_order_[kMaxThreads / 32];
};

// --- one block

static void begin_block(Index3 block) {
  Kernel& k = kernel();
  Module* module = k.launch->function->module;
  if (k.launch->dynamic_shared) poison(emulator_dynamic_shared, k.launch->dynamic_shared);
  if (module->shared_begin)
    poison(module->shared_begin, (size_t)(module->shared_end - module->shared_begin));
  races_begin_block();
  k.live = k.threads;
  k.barrier = {};
  for (unsigned i = 0; i < k.threads; i++) {
    Fiber& fiber = k.fibers[i];
    fiber.thread.block = block;
    fiber.state = State::kReady;
  }
  for (unsigned w = 0; w < k.warps; w++) {
    unsigned lanes = std::min(32u, k.threads - 32 * w);
    k.warp_states[w].ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
  }
}

static void resume(unsigned index) {
  Kernel& k = kernel();
  k.current = &k.fibers[index];
  emulator_thread = &k.current->thread;
  k.warp_states[index / 32].ready &= ~(1u << index % 32);
  emulator_switch(&k.scheduler_stack, k.current->stack_pointer);
}

// Runs the lanes of a warp until all of them wait or have ended. False if none could run.
static bool run_warp(unsigned w, const Order& order) {
  Kernel& k = kernel();
  Warp& warp = k.warp_states[w];
  if (!warp.ready) return false;
  while (warp.ready) {
    for (unsigned i = 0; i < 32; i++) {
      unsigned lane = order.lane(i);
      if (!(warp.ready >> lane & 1)) continue;
      resume(32 * w + lane);
      if (k.failure != kSuccess) return true;
    }
  }
  return true;
}

static void release_barrier() {
  Kernel& k = kernel();
  k.barrier.last = {k.barrier.nonzero, k.barrier.arrived};
  k.barrier.arrived = k.barrier.nonzero = 0;
  races_barrier();
  for (unsigned i = 0; i < k.threads; i++) {
    if (k.fibers[i].state != State::kAtBarrier) continue;
    k.fibers[i].state = State::kReady;
    k.warp_states[i / 32].ready |= 1u << i % 32;
  }
}

// Which threads wait for what, when none can run.
static std::string describe_deadlock() {
  Kernel& k = kernel();
  struct Group {
    unsigned threads = 0;
    const Fiber* first = nullptr;
  };
  std::map<std::pair<std::string, int>, Group> groups;
  for (unsigned i = 0; i < k.threads; i++) {
    const Fiber& fiber = k.fibers[i];
    if (fiber.state == State::kDone) continue;
    Group& group = groups[{fiber.waits_at, fiber.line}];
    if (!group.threads++) group.first = &fiber;
  }
  std::string text = "deadlock:";
  for (const auto& [where, group] : groups)
    text += " " + std::to_string(group.threads) + " threads wait at " + where.first + " of line " +
            std::to_string(where.second) + " (first: " + place_of(*group.first) + ");";
  return text + " " + std::to_string(k.threads - k.live) + " have ended";
}

static void run_block(Index3 block, Order& order) {
  Kernel& k = kernel();
  begin_block(block);
  while (k.live) {
    bool progress = false;
    order.shuffle();
    for (unsigned i = 0; i < k.warps; i++) {
      progress |= run_warp(order.warp(i), order);
      if (k.failure != kSuccess) return;
    }
    if (k.live && k.barrier.arrived == k.live) {
      release_barrier();
    } else if (!progress) {
      k.failure = kLaunchFailed;
      k.message = describe_deadlock();
      return;
    }
  }
}

// --- a launch

static void begin_launch(const Launch& launch) {
  Kernel& k = kernel();
  make_fibers();
  k.launch = &launch;
  k.threads = launch.block.x * launch.block.y * launch.block.z;
  k.warps = (k.threads + 31) / 32;
  k.failure = kSuccess;
  k.fault_pc = nullptr;
  k.dynamic_limit = dynamic_shared_limit();
  emulator_dynamic_shared = k.dynamic_limit - (launch.dynamic_shared + 127) / 128 * 128;
  races_begin_launch();
  Index3 at{0, 0, 0};
  for (unsigned i = 0; i < kMaxThreads; i++) {
    Fiber& fiber = k.fibers[i];
    if (k.stacks_stale) reset_stack(fiber, i);
    if (i >= k.threads) continue;
    fiber.thread = {at, {}, launch.block, launch.grid, i % 32, i / 32};
    fiber.copies.clear();
    fiber.copy_groups.clear();
    fiber.uncommitted = 0;
    if (++at.x == launch.block.x) at.x = 0, at.y++;
    if (at.y == launch.block.y) at.y = 0, at.z++;
  }
  for (unsigned w = 0; w < k.warps; w++)
    for (auto& meeting : k.warp_states[w].meetings) meeting->arrived = meeting->reading = 0;
  k.stacks_stale = false;
}

static void run_blocks(Device* device, const Launch& launch) {
  const Index3 grid = launch.grid;
  uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  Order order(schedule_of(device->ordinal), kernel().warps, blocks);
  for (uint64_t i = 0; i < blocks && kernel().failure == kSuccess; i++) {
    uint64_t b = order.block(i);
    run_block({(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
               (unsigned)(b / grid.x / grid.y)},
              order);
  }
}

Result run_kernel(Device* device, const Launch& launch) {
  Kernel& k = kernel();
  begin_launch(launch);
  if (sigsetjmp(k.fault_jump, 1) == 0) {
    faults_begin();
    run_blocks(device, launch);
    faults_end();
  } else {
    faults_end();
    k.failure = fault_result();
    k.message = fault_message() + ", " + place_of(*k.current);
  }
  if (k.failure == kSuccess) return kSuccess;
  k.stacks_stale = true;
  return fail(k.failure, std::string(launch.function->entry->name) + ": " + k.message +
                             line_of(k.fault_pc));
}

}  // namespace emulator

// --- what threads call

using namespace emulator;

EXPORT BarrierCount emulator_barrier(int predicate, const char* what, int line) {
  races_settle();
  Kernel& k = kernel();
  Fiber& self = *k.current;
  Barrier& barrier = k.barrier;
  unsigned index = (unsigned)(&self - k.fibers.data());
  if (barrier.arrived == 0) {
    barrier.what = what, barrier.line = line, barrier.first = index;
  } else if (barrier.what != what || barrier.line != line) {
    fail_thread(kLaunchFailed, std::string("divergent barrier: ") + place_of(k.fibers[barrier.first]) +
                                   " waits at " + barrier.what + " of line " +
                                   std::to_string(barrier.line) + ", and at " + what + " of line " +
                                   std::to_string(line) + " waits");
  }
  barrier.arrived++;
  barrier.nonzero += predicate != 0;
  self.state = State::kAtBarrier, self.waits_at = what, self.line = line;
  to_scheduler();
  return barrier.last;
}

static Meeting& meeting_of(Warp& warp, unsigned mask) {
  for (auto& meeting : warp.meetings)
    if (meeting->mask == mask) return *meeting;
  for (auto& meeting : warp.meetings) {
    if (meeting->arrived || meeting->reading) continue;
    meeting->mask = mask;
    return *meeting;
  }
  warp.meetings.push_back(std::make_unique<Meeting>());
  warp.meetings.back()->mask = mask;
  return *warp.meetings.back();
}

EXPORT const Slot* emulator_collective(unsigned mask, const void* given, size_t bytes,
                                       const char* what, int line, Leader leader) {
  races_settle();
  Kernel& k = kernel();
  Fiber& self = *k.current;
  Warp& warp = k.warp_states[self.thread.warp];
  unsigned own = 1u << self.thread.lane;
  if (!(mask & own))
    fail_thread(kLaunchFailed, std::string(what) + " of line " + std::to_string(line) +
                                   ": the lane is not in its own mask");
  Meeting& meeting = meeting_of(warp, mask);
  if (!meeting.arrived) {
    meeting.what = what, meeting.line = line;
  } else if (meeting.line != line || (meeting.what != what && strcmp(meeting.what, what))) {
    fail_thread(kLaunchFailed, std::string("divergent collective: other lanes of the warp wait at ") +
                                   meeting.what + " of line " + std::to_string(meeting.line) +
                                   ", this one at " + what + " of line " + std::to_string(line));
  }
  Slot* slots = meeting.slots[meeting.turn];
  if (bytes == 4) memcpy(slots[self.thread.lane].bytes, given, 4);  // most are floats
  else if (bytes) memcpy(slots[self.thread.lane].bytes, given, bytes);
  meeting.arrived |= own;
  if (meeting.arrived != mask) {
    self.state = State::kAtCollective, self.waits_at = what, self.line = line;
    to_scheduler();
    meeting.reading--;
    return slots;
  }
  races_collective(self.thread.warp);
  if (leader) leader(slots);
  unsigned others = mask & ~own;
  for (unsigned rest = others; rest; rest &= rest - 1)
    k.fibers[self.thread.warp * 32 + (unsigned)__builtin_ctz(rest)].state = State::kReady;
  warp.ready |= others;
  meeting.reading = (unsigned)__builtin_popcount(others);
  meeting.arrived = 0;
  meeting.turn ^= 1;
  return slots;
}

EXPORT void emulator_fail(const char* message, int line) {
  fail_thread(kLaunchFailed, std::string(message) + " (line " + std::to_string(line) + ")");
}
