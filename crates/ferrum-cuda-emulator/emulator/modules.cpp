// Modules and launches. A module's image is what the emulated NVRTC made: a header and a shared
// library, which is loaded from memory.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "driver.h"
#include "image.h"

namespace emulator {

// The module whose constructors run now.
static Module* loading = nullptr;

void loading_checks_races() {
  if (loading) loading->checks_races = true;
}

Result module_load(Device* device, const void* image, Module** loaded) {
  ImageHeader header;
  memcpy(header.magic, image, sizeof header.magic);
  if (memcmp(header.magic, kImageMagic, sizeof header.magic))
    return fail(kInvalidImage, "the module was not compiled by the emulated NVRTC");
  memcpy(&header, image, sizeof header);
  int capability = capability_of(device->ordinal);
  if (header.capability != (uint32_t)capability)
    return fail(kNoBinaryForGpu, "the module is for sm_" + std::to_string(header.capability) +
                                     ", the device is sm_" + std::to_string(capability));
  int file = memfd_create("ferrum-kernels", MFD_CLOEXEC);
  auto* bytes = static_cast<const char*>(image) + sizeof header;
  for (size_t written = 0; written < header.bytes;) {
    ssize_t n = write(file, bytes + written, header.bytes - written);
    if (n <= 0) return close(file), fail(kOutOfMemory, "no memory for a module");
    written += (size_t)n;
  }
  auto module = std::make_unique<Module>();
  module->device = device;
  loading = module.get();
  std::string path = "/proc/self/fd/" + std::to_string(file);
  module->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  loading = nullptr;
  if (!module->library) return close(file), fail(kInvalidImage, dlerror());
  module->file = file;
  *loaded = driver().modules.add(std::move(module));
  return kSuccess;
}

static Function* find_function(void* handle) {
  for (Module* module : driver().modules.all())
    for (auto& function : module->functions)
      if (function.get() == handle) return function.get();
  fail(kInvalidHandle, "not a function of a module that is loaded");
  return nullptr;
}

// Words of the arguments that point into device memory, for the check of graphs.
static std::vector<uint64_t> device_pointers(const std::vector<uint64_t>& packed) {
  std::vector<uint64_t> pointers;
  for (uint64_t word : packed)
    if (memory_is_live(word)) pointers.push_back(word);
  return pointers;
}

static Result check_launch(const Function& function, Index3 grid, Index3 block, unsigned dynamic) {
  const KernelEntry& entry = *function.entry;
  std::string name = entry.name;
  uint64_t threads = (uint64_t)block.x * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
    return fail(kInvalidValue, name + ": a grid that no card accepts");
  if (!threads || threads > kMaxThreads || block.z > 64)
    return fail(kInvalidValue, name + ": a block that no card accepts");
  if (threads > entry.max_threads)
    return fail(kLaunchOutOfResources, name + ": " + std::to_string(threads) +
                                           " threads a block, declared for at most " +
                                           std::to_string(entry.max_threads));
  if (dynamic > (unsigned)function.max_dynamic_shared)
    return fail(kInvalidValue, name + ": " + std::to_string(dynamic) +
                                   " bytes of dynamic shared memory, allowed are " +
                                   std::to_string(function.max_dynamic_shared));
  return kSuccess;
}

// A pointer that no card could follow: into the host's own memory, most often.
static Result check_pointers(const KernelEntry& entry, void* const* arguments) {
  for (unsigned i = 0; i < entry.arguments; i++) {
    if (!(entry.pointers >> i & 1)) continue;
    uint64_t address = *static_cast<uint64_t*>(arguments[i]);
    if (!address || memory_in_arena(address) || host_is_pinned(reinterpret_cast<void*>(address)))
      continue;
    return fail(kIllegalAddress, std::string(entry.name) + ": argument " + std::to_string(i) +
                                     " is " + memory_describe(address));
  }
  return kSuccess;
}

}  // namespace emulator

using namespace emulator;

EXPORT void emulator_register_kernel(const KernelEntry* entry) {
  loading->functions.push_back(std::make_unique<Function>(Function{loading, entry}));
}

EXPORT void emulator_register_shared(void* begin, void* end) {
  loading->shared_begin = static_cast<unsigned char*>(begin);
  loading->shared_end = static_cast<unsigned char*>(end);
}

EXPORT Result cuModuleLoadData(void** handle, const void* image) {
  Lock lock(driver().lock);
  Device* device = current_device();
  if (!device) return fail(kInvalidContext, "cuModuleLoadData: no context is current");
  Module* module = nullptr;
  Result result = module_load(device, image, &module);
  *handle = module;
  return result;
}
EXPORT Result cuModuleLoadDataEx(void** handle, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(handle, image);
}

EXPORT Result cuModuleUnload(void* handle) {
  Lock lock(driver().lock);
  Module* module = driver().modules.find(handle);
  if (!module) return fail(kInvalidHandle, "cuModuleUnload: not a module");
  drain_device(module->device);
  void* library = module->library;
  int file = module->file;
  driver().modules.remove(module);
  dlclose(library);
  close(file);
  return kSuccess;
}

EXPORT Result cuModuleGetFunction(void** handle, void* module_handle, const char* name) {
  Lock lock(driver().lock);
  Module* module = driver().modules.find(module_handle);
  if (!module) return fail(kInvalidHandle, "cuModuleGetFunction: not a module");
  for (auto& function : module->functions) {
    if (strcmp(function->entry->name, name)) continue;
    *handle = function.get();
    return kSuccess;
  }
  return fail(kNotFound, std::string("the module has no kernel ") + name);
}

EXPORT Result cuFuncGetAttribute(int* value, int attribute, void* handle) {
  Lock lock(driver().lock);
  Function* function = find_function(handle);
  if (!function) return kInvalidHandle;
  switch (attribute) {
    case 0: *value = (int)function->entry->max_threads; return kSuccess;
    case 1: case 2: case 3: *value = 0; return kSuccess;  // static shared, constant, local bytes
    case 4: *value = 64; return kSuccess;                 // registers
    case 5: case 6: *value = capability_of(function->module->device->ordinal); return kSuccess;
    case 8: *value = function->max_dynamic_shared; return kSuccess;
    case 9: *value = -1; return kSuccess;                 // preferred carve-out: the default
    default: return fail(kInvalidValue, "cuFuncGetAttribute: attribute is not emulated");
  }
}

EXPORT Result cuFuncSetAttribute(void* handle, int attribute, int value) {
  Lock lock(driver().lock);
  Function* function = find_function(handle);
  if (!function) return kInvalidHandle;
  if (attribute == 9) return kSuccess;
  if (attribute != 8) return fail(kInvalidValue, "cuFuncSetAttribute: attribute is not emulated");
  if (value < 0 || value > (int)kSharedOptIn)
    return fail(kInvalidValue, "more dynamic shared memory than the device has");
  function->max_dynamic_shared = value;
  return kSuccess;
}

EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads,
                                                          size_t dynamic) {
  Lock lock(driver().lock);
  if (!find_function(handle)) return kInvalidHandle;
  if (threads <= 0) return fail(kInvalidValue, "occupancy of a block without threads");
  int by_shared = dynamic ? (int)(kSharedOptIn / dynamic) : 32;
  *blocks = std::min({32, 2048 / threads, by_shared});
  return kSuccess;
}

EXPORT Result cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z,
                             unsigned dynamic, void* stream_handle, void** arguments,
                             void** extra) {
  Lock lock(driver().lock);
  Function* function = find_function(handle);
  Stream* stream = function ? find_stream(stream_handle) : nullptr;
  if (!stream) return kInvalidHandle;
  if (extra) return fail(kNotSupported, "cuLaunchKernel: `extra` is not emulated");
  Device* device = stream->device;
  if (function->module->device != device)
    return fail(kInvalidHandle, "cuLaunchKernel: kernel and stream are of different devices");
  auto launch = std::make_shared<Launch>();
  launch->function = function;
  launch->grid = {grid_x, grid_y, grid_z};
  launch->block = {block_x, block_y, block_z};
  launch->dynamic_shared = dynamic;
  if (Result refused = check_launch(*function, launch->grid, launch->block, dynamic)) return refused;
  if (Result refused = check_pointers(*function->entry, arguments)) return refused;
  // By value, as the card does.
  launch->packed.assign((function->entry->argument_bytes + 7) / 8, 0);
  function->entry->pack(arguments, launch->packed.data());
  auto run = [device, launch, function, module = function->module]() -> Result {
    if (!driver().modules.find(module))
      return fail(kIllegalAddress, "a graph launches a kernel of an unloaded module");
    return run_kernel(device, *launch);
  };
  return submit(stream, {run, device_pointers(launch->packed), function->entry->name});
}
