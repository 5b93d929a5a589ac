// cp.async and the rows of ldmatrix. A copy's bytes arrive at the wait; until then its place in
// shared memory is poison, so that neither an early read nor one of the former contents goes
// unnoticed.
#include <algorithm>
#include <cstring>

#include "scheduler.h"

using namespace emulator;

static bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Out of the way of the many copies that are right.
[[noreturn]] static void refuse(Result result, const char* what, int line, const std::string& why) {
  fail_thread(result, std::string(what) + " of line " + std::to_string(line) + why);
}

EXPORT void emulator_copy_async(void* shared, const void* global, bool valid, int line) {
  Fiber& self = *kernel().current;
  auto from = reinterpret_cast<uint64_t>(global);
  if (!aligned16(shared) || !aligned16(global))
    refuse(kMisalignedAddress, "cp.async", line, ": an address is not a multiple of 16");
  if (!in_shared_memory(shared, 16))
    refuse(kIllegalAddress, "cp.async", line, ": the target is not in shared memory");
  if (valid && !memory_is_live(from))
    refuse(kIllegalAddress, "cp.async", line, " reads an illegal address: " + memory_describe(from));
  races_write(shared, 16);
  races_forget(shared, 16);
  poison(shared, 16);
  self.copies.push_back({shared, global, valid, line});
  self.uncommitted++;
}

EXPORT void emulator_copy_commit() {
  Fiber& self = *kernel().current;
  self.copy_groups.push_back(self.uncommitted);
  self.uncommitted = 0;
}

EXPORT void emulator_copy_wait(unsigned groups_under_way) {
  finish_copies(*kernel().current, groups_under_way);
}

// Delivers the oldest groups until so many are left; at the end of a thread, all that it began.
void emulator::finish_copies(Fiber& fiber, unsigned groups_under_way) {
  bool ends = groups_under_way == 0 && fiber.state == State::kDone;
  size_t groups = fiber.copy_groups.size();
  size_t finished = groups > groups_under_way ? groups - groups_under_way : 0;
  size_t copies = 0;
  for (size_t g = 0; g < finished; g++) copies += fiber.copy_groups[g];
  if (ends) copies = fiber.copies.size();
  for (size_t i = 0; i < copies; i++) {
    const PendingCopy& copy = fiber.copies[i];
    races_write(copy.shared, 16);
    if (copy.valid) memcpy(copy.shared, copy.global, 16);
    else memset(copy.shared, 0, 16);
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + (ptrdiff_t)copies);
  fiber.copy_groups.erase(fiber.copy_groups.begin(), fiber.copy_groups.begin() + (ptrdiff_t)finished);
}

EXPORT void emulator_require_matrix_row(const void* row, const char* what, int line) {
  if (!aligned16(row))
    refuse(kMisalignedAddress, what, line, ": a row's address is not a multiple of 16");
  if (!in_shared_memory(row, 16))
    refuse(kIllegalAddress, what, line, ": a row is not in shared memory");
}
