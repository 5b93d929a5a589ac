// Allocations, copies, fills.
#include <cstring>

#include "driver.h"

using namespace emulator;

static void* at(uint64_t address) { return reinterpret_cast<void*>(address); }

static Result need_context(const char* call) {
  Device* device = current_device();
  if (!device) return fail(kInvalidContext, std::string(call) + ": no context is current");
  return device->sticky;
}

// What every call of this file that waits or allocates checks first.
static Result begin_unsafe(const char* call) {
  if (Result bad = need_context(call)) return bad;
  return refuse_while_capturing(call);
}

EXPORT Result cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  Lock lock(driver().lock);
  if (Result bad = begin_unsafe("cuMemAlloc")) return bad;
  return memory_allocate(current_device(), bytes, address);
}

// Memory can be freed whatever the state of the device, so that owners can clean up.
EXPORT Result cuMemFree_v2(uint64_t address) {
  Lock lock(driver().lock);
  if (!current_device()) return fail(kInvalidContext, "cuMemFree: no context is current");
  if (address == 0) return kSuccess;
  if (Result refused = refuse_while_capturing("cuMemFree")) return refused;
  Result sticky = drain_device(current_device());
  Result freed = memory_free(address);
  return sticky ? sticky : freed;
}

EXPORT Result cuMemAllocAsync(uint64_t* address, size_t bytes, void* handle) {
  Lock lock(driver().lock);
  Stream* stream = find_stream(handle);
  if (!stream) return kInvalidHandle;
  if (Result refused = refuse_on_capturing(stream, "cuMemAllocAsync (not emulated)")) return refused;
  if (stream->device->sticky) return stream->device->sticky;
  return memory_allocate(stream->device, bytes, address);
}

EXPORT Result cuMemFreeAsync(uint64_t address, void* handle) {
  Lock lock(driver().lock);
  Stream* stream = find_stream(handle);
  if (!stream) return kInvalidHandle;
  if (Result refused = refuse_on_capturing(stream, "cuMemFreeAsync (not emulated)")) return refused;
  if (!memory_is_live(address)) return memory_free(address);
  return submit(stream, {[address] { return memory_free(address); }, {}, "cuMemFreeAsync", true});
}

EXPORT Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  Lock lock(driver().lock);
  if (!current_device()) return fail(kInvalidContext, "cuMemGetInfo: no context is current");
  *total = kDeviceMemory;
  *free = kDeviceMemory - current_device()->used;
  return kSuccess;
}

EXPORT Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  Lock lock(driver().lock);
  if (Result bad = begin_unsafe("cuMemHostAlloc")) return bad;
  return host_allocate(bytes, pointer);
}
EXPORT Result cuMemAllocHost_v2(void** pointer, size_t bytes) {
  return cuMemHostAlloc(pointer, bytes, 0);
}
EXPORT Result cuMemFreeHost(void* pointer) {
  Lock lock(driver().lock);
  if (current_device()) drain_device(current_device());
  return host_free(pointer);
}

// --- fills

static Result fill(uint64_t address, size_t count, size_t width, uint32_t value, Stream* stream) {
  if (Result bad = memory_check(address, count * width, "a fill")) return bad;
  if (address % width) return fail(kInvalidValue, "a fill of misaligned numbers");
  auto run = [=]() -> Result {
    if (Result gone = memory_check(address, count * width, "a fill")) return gone;
    auto* bytes = static_cast<unsigned char*>(at(address));
    if (width == 1) memset(bytes, (int)value, count);
    else for (size_t i = 0; i < count; i++) memcpy(bytes + i * width, &value, width);
    return kSuccess;
  };
  return submit(stream, {run, {address}, "a fill"});
}

static Result fill_now(uint64_t address, size_t count, size_t width, uint32_t value) {
  Lock lock(driver().lock);
  if (Result bad = begin_unsafe("cuMemsetD")) return bad;
  Stream* stream = &current_device()->legacy;
  if (Result bad = fill(address, count, width, value, stream)) return bad;
  return drain(stream);
}
static Result fill_async(uint64_t address, size_t count, size_t width, uint32_t value,
                         void* handle) {
  Lock lock(driver().lock);
  Stream* stream = find_stream(handle);
  return stream ? fill(address, count, width, value, stream) : kInvalidHandle;
}

EXPORT Result cuMemsetD8_v2(uint64_t p, unsigned char v, size_t n) { return fill_now(p, n, 1, v); }
EXPORT Result cuMemsetD16_v2(uint64_t p, unsigned short v, size_t n) { return fill_now(p, n, 2, v); }
EXPORT Result cuMemsetD32_v2(uint64_t p, unsigned v, size_t n) { return fill_now(p, n, 4, v); }
EXPORT Result cuMemsetD8Async(uint64_t p, unsigned char v, size_t n, void* stream) {
  return fill_async(p, n, 1, v, stream);
}
EXPORT Result cuMemsetD16Async(uint64_t p, unsigned short v, size_t n, void* stream) {
  return fill_async(p, n, 2, v, stream);
}
EXPORT Result cuMemsetD32Async(uint64_t p, unsigned v, size_t n, void* stream) {
  return fill_async(p, n, 4, v, stream);
}

// --- copies

// Ordinary host memory is read before the call returns; pinned memory, and any memory that a graph
// mentions, when the copy runs.
static Result to_device(uint64_t to, const void* from, size_t bytes, Stream* stream) {
  if (memory_in_arena(reinterpret_cast<uint64_t>(from)))
    return fail(kInvalidValue, "a copy to the device comes from device memory");
  if (Result bad = memory_check(to, bytes, "a copy to the device")) return bad;
  auto copy = [=](const void* source) -> Result {
    if (Result gone = memory_check(to, bytes, "a copy to the device")) return gone;
    memcpy(at(to), source, bytes);
    return kSuccess;
  };
  if (stream->capture || host_is_pinned(from))
    return submit(stream, {[=] { return copy(from); }, {to}, "a copy to the device"});
  auto* first = static_cast<const unsigned char*>(from);
  auto staged = std::make_shared<std::vector<unsigned char>>(first, first + bytes);
  return submit(stream, {[=] { return copy(staged->data()); }, {to}, "a copy to the device"});
}

// A copy into ordinary host memory has ended when the call returns.
static Result to_host(void* to, uint64_t from, size_t bytes, Stream* stream) {
  if (memory_in_arena(reinterpret_cast<uint64_t>(to)))
    return fail(kInvalidValue, "a copy to the host goes to device memory");
  if (Result bad = memory_check(from, bytes, "a copy to the host")) return bad;
  auto copy = [=]() -> Result {
    if (Result gone = memory_check(from, bytes, "a copy to the host")) return gone;
    memcpy(to, at(from), bytes);
    return kSuccess;
  };
  Result submitted = submit(stream, {copy, {from}, "a copy to the host"});
  if (submitted || stream->capture || host_is_pinned(to)) return submitted;
  return drain(stream);
}

static Result on_device(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
  if (Result bad = memory_check(to, bytes, "a copy on the device")) return bad;
  if (Result bad = memory_check(from, bytes, "a copy on the device")) return bad;
  if (to < from + bytes && from < to + bytes && bytes)
    return fail(kInvalidValue, "a copy between places that overlap");
  auto copy = [=]() -> Result {
    if (Result gone = memory_check(to, bytes, "a copy on the device")) return gone;
    if (Result gone = memory_check(from, bytes, "a copy on the device")) return gone;
    memcpy(at(to), at(from), bytes);
    return kSuccess;
  };
  return submit(stream, {copy, {to, from}, "a copy on the device"});
}

#define COPY_ASYNC(name, copy, To, From)                                 \
  EXPORT Result name(To to, From from, size_t bytes, void* handle) {     \
    Lock lock(driver().lock);                                            \
    Stream* stream = find_stream(handle);                                \
    return stream ? copy(to, from, bytes, stream) : kInvalidHandle;      \
  }
#define COPY_NOW(name, call, copy, To, From)                             \
  EXPORT Result name(To to, From from, size_t bytes) {                   \
    Lock lock(driver().lock);                                            \
    if (Result bad = begin_unsafe(call)) return bad;                     \
    Stream* stream = &current_device()->legacy;                          \
    if (Result bad = copy(to, from, bytes, stream)) return bad;          \
    return drain(stream);                                                \
  }
COPY_ASYNC(cuMemcpyHtoDAsync_v2, to_device, uint64_t, const void*)
COPY_ASYNC(cuMemcpyDtoHAsync_v2, to_host, void*, uint64_t)
COPY_ASYNC(cuMemcpyDtoDAsync_v2, on_device, uint64_t, uint64_t)
COPY_NOW(cuMemcpyHtoD_v2, "cuMemcpyHtoD", to_device, uint64_t, const void*)
COPY_NOW(cuMemcpyDtoH_v2, "cuMemcpyDtoH", to_host, void*, uint64_t)
COPY_NOW(cuMemcpyDtoD_v2, "cuMemcpyDtoD", on_device, uint64_t, uint64_t)

EXPORT Result cuMemcpyPeerAsync(uint64_t to, void*, uint64_t from, void*, size_t bytes,
                                void* handle) {
  return cuMemcpyDtoDAsync_v2(to, from, bytes, handle);
}
