// Device memory: one reserved range of addresses, none of which is ever used twice, so that a
// pointer into freed memory stays one. An allocation ends at a page that cannot be touched.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "driver.h"

namespace emulator {

namespace {
constexpr uint64_t kArenaBytes = uint64_t(16) << 40, kPage = 4096;
// The card promises more, but kernels need no more than this, and what ends nearer to the guard
// page is guarded better.
constexpr uint64_t kAlignment = 16;
// Larger allocations come as zeros, since to fill them would make them resident.
constexpr size_t kPoisonUpTo = size_t(256) << 20;
constexpr unsigned char kSlackByte = 0xfb;

struct Allocation {
  Device* device;
  size_t bytes;
  uint64_t begin, end;  // its pages
  bool live;
};

struct Memory {
  uint64_t arena = 0, next = 0;
  std::map<uint64_t, Allocation> allocations;  // by address, freed ones too
  std::map<uint64_t, size_t> pinned;
};
Memory& memory() {
  static Memory* state = new Memory;
  return *state;
}

void* at(uint64_t address) { return reinterpret_cast<void*>(address); }

bool reserve_arena() {
  Memory& m = memory();
  if (m.arena) return true;
  void* range = mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                     -1, 0);
  if (range == MAP_FAILED) return false;
  m.arena = m.next = reinterpret_cast<uint64_t>(range);
  return true;
}

// The allocation at or before an address.
const std::pair<const uint64_t, Allocation>* nearest(uint64_t address) {
  Memory& m = memory();
  auto after = m.allocations.upper_bound(address);
  return after == m.allocations.begin() ? nullptr : &*std::prev(after);
}

bool slack_is_whole(uint64_t address, const Allocation& a) {
  auto whole = [](uint64_t from, uint64_t to) {
    auto* bytes = static_cast<unsigned char*>(at(from));
    return std::all_of(bytes, bytes + (to - from), [](unsigned char b) { return b == kSlackByte; });
  };
  return whole(a.begin, address) && whole(address + a.bytes, a.end);
}

void release(Allocation& a) {
  // PROT_NONE pages beside one another are one mapping for the system, of which it has few.
  mmap(at(a.begin), a.end - a.begin, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  a.live = false;
  a.device->used -= a.bytes;
}
}  // namespace

Result memory_allocate(Device* device, size_t bytes, uint64_t* address) {
  if (bytes == 0) return fail(kInvalidValue, "allocation of no bytes");
  if (bytes > kDeviceMemory - device->used)
    return fail(kOutOfMemory, "device " + std::to_string(device->ordinal) + " has no " +
                                  std::to_string(bytes) + " bytes left");
  if (!reserve_arena()) return fail(kOutOfMemory, "no address space for device memory");
  Memory& m = memory();
  uint64_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  uint64_t pages = (aligned + kPage - 1) / kPage * kPage;
  if (m.next + pages + 2 * kPage > m.arena + kArenaBytes)
    return fail(kOutOfMemory, "this process has used up the addresses of device memory");
  uint64_t begin = m.next + kPage, end = begin + pages;
  m.next = end;
  if (mprotect(at(begin), pages, PROT_READ | PROT_WRITE)) {
    return fail(kOutOfMemory, "the system gave no memory for an allocation");
  }
  *address = end - aligned;
  memset(at(begin), kSlackByte, *address - begin);
  memset(at(*address + bytes), kSlackByte, aligned - bytes);
  if (bytes <= kPoisonUpTo) poison(at(*address), bytes);
  device->used += bytes;
  m.allocations[*address] = {device, bytes, begin, end, true};
  return kSuccess;
}

Result memory_free(uint64_t address) {
  Memory& m = memory();
  auto found = m.allocations.find(address);
  if (found == m.allocations.end())
    return fail(kInvalidValue, "free of a pointer that is not an allocation: " +
                                   memory_describe(address));
  Allocation& a = found->second;
  if (!a.live) return fail(kInvalidValue, "an allocation is freed twice");
  bool whole = slack_is_whole(address, a);
  size_t bytes = a.bytes;
  release(a);
  if (!whole)
    return fail(kIllegalAddress, "something wrote just outside of an allocation of " +
                                     std::to_string(bytes) + " bytes");
  return kSuccess;
}

bool memory_is_live(uint64_t address) {
  static const std::pair<const uint64_t, Allocation>* last = nullptr;  // most often the same
  auto holds = [&](auto* entry) {
    return entry && entry->second.live && address - entry->first < entry->second.bytes;
  };
  if (holds(last)) return true;
  auto* found = nearest(address);
  if (!holds(found)) return false;
  last = found;
  return true;
}

bool memory_in_arena(uint64_t address) {
  Memory& m = memory();
  return m.arena && address >= m.arena && address < m.arena + kArenaBytes;
}

Result memory_check(uint64_t address, size_t bytes, const char* what) {
  auto* found = nearest(address);
  if (found && found->second.live && address - found->first <= found->second.bytes &&
      bytes <= found->second.bytes - (address - found->first))
    return kSuccess;
  return fail(kInvalidValue, std::string(what) + " of " + std::to_string(bytes) +
                                 " bytes leaves its allocation: " + memory_describe(address));
}

std::string memory_describe(uint64_t address) {
  char hex[32];
  snprintf(hex, sizeof hex, "%#lx, ", (unsigned long)address);
  if (!memory_in_arena(address)) return std::string(hex) + "which is not device memory";
  auto* before = nearest(address);
  Memory& m = memory();
  auto after = m.allocations.upper_bound(address);
  if (before && address < before->second.end) {
    const Allocation& a = before->second;
    std::string name = (a.live ? "an allocation of " : "a freed allocation of ") +
                       std::to_string(a.bytes) + " bytes";
    uint64_t offset = address - before->first;
    if (offset < a.bytes) return hex + ("byte " + std::to_string(offset)) + " of " + name;
    return hex + std::to_string(offset - a.bytes) + " bytes past the end of " + name;
  }
  if (after != m.allocations.end() && address + kPage >= after->second.begin)
    return hex + std::to_string(after->first - address) + " bytes before " +
           (after->second.live ? "an" : "a freed") + " allocation";
  if (before)
    return hex + std::to_string(address - before->first - before->second.bytes) +
           " bytes past the end of an allocation of " + std::to_string(before->second.bytes) +
           " bytes";
  return std::string(hex) + "where no allocation is";
}

void memory_release_all(Device* device) {
  for (auto& entry : memory().allocations) {
    Allocation& a = entry.second;
    if (a.live && a.device == device) release(a);
  }
}

Result host_allocate(size_t bytes, void** pointer) {
  if (bytes == 0) return fail(kInvalidValue, "allocation of no bytes");
  *pointer = aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  if (!*pointer) return fail(kOutOfMemory, "no host memory left");
  memory().pinned[reinterpret_cast<uint64_t>(*pointer)] = bytes;
  return kSuccess;
}

Result host_free(void* pointer) {
  if (!memory().pinned.erase(reinterpret_cast<uint64_t>(pointer)))
    return fail(kInvalidValue, "free of a pointer that is not pinned host memory");
  free(pointer);
  return kSuccess;
}

bool host_is_pinned(const void* pointer) {
  uint64_t address = reinterpret_cast<uint64_t>(pointer);
  auto after = memory().pinned.upper_bound(address);
  if (after == memory().pinned.begin()) return false;
  auto range = std::prev(after);
  return address < range->first + range->second;
}

}  // namespace emulator
