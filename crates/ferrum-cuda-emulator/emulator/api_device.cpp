// Initialisation, devices, contexts, errors.
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace emulator {

Driver& driver() {
  static Driver* state = [] {
    auto* made = new Driver;  // never destroyed: threads may still call when the process ends
    for (int i = 0; i < kDevices; i++) {
      made->devices[i].ordinal = i;
      made->devices[i].legacy.device = &made->devices[i];
    }
    return made;
  }();
  return *state;
}

Schedule schedule_of(int ordinal) {
  return static_cast<Schedule>(ordinal < 6 ? ordinal / 2 : ordinal - 6);
}
int capability_of(int ordinal) { return ordinal < 6 ? 80 : 90; }

static thread_local Device* current = nullptr;
Device* current_device() { return current && current->retained ? current : nullptr; }
void set_current_device(Device* device) { current = device; }

static thread_local std::string message;
const char* last_message() { return message.c_str(); }

Result fail(Result result, const std::string& text) {
  message = text;
  fprintf(stderr, "[emulated CUDA] %s: %s\n", error_name(result), text.c_str());
  return result;
}

const char* error_name(Result result) {
  switch (result) {
    case kSuccess: return "CUDA_SUCCESS";
    case kInvalidValue: return "CUDA_ERROR_INVALID_VALUE";
    case kOutOfMemory: return "CUDA_ERROR_OUT_OF_MEMORY";
    case kNotInitialized: return "CUDA_ERROR_NOT_INITIALIZED";
    case kInvalidDevice: return "CUDA_ERROR_INVALID_DEVICE";
    case kInvalidImage: return "CUDA_ERROR_INVALID_IMAGE";
    case kInvalidContext: return "CUDA_ERROR_INVALID_CONTEXT";
    case kNoBinaryForGpu: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
    case kInvalidHandle: return "CUDA_ERROR_INVALID_HANDLE";
    case kNotFound: return "CUDA_ERROR_NOT_FOUND";
    case kNotReady: return "CUDA_ERROR_NOT_READY";
    case kIllegalAddress: return "CUDA_ERROR_ILLEGAL_ADDRESS";
    case kLaunchOutOfResources: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
    case kMisalignedAddress: return "CUDA_ERROR_MISALIGNED_ADDRESS";
    case kLaunchFailed: return "CUDA_ERROR_LAUNCH_FAILED";
    case kNotSupported: return "CUDA_ERROR_NOT_SUPPORTED";
    case kCaptureUnsupported: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    case kCaptureInvalidated: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
    case kCaptureUnmatched: return "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED";
    case kCaptureUnjoined: return "CUDA_ERROR_STREAM_CAPTURE_UNJOINED";
    case kCaptureWrongThread: return "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD";
  }
  return "CUDA_ERROR_UNKNOWN";
}

static Device* find_device(int ordinal) {
  if (!driver().initialised) return fail(kNotInitialized, "cuInit was not called"), nullptr;
  if (ordinal < 0 || ordinal >= kDevices) return fail(kInvalidDevice, "no such device"), nullptr;
  return &driver().devices[ordinal];
}

// Puts a device back into its first state: what happens when nobody holds its context.
static void reset(Device* device) {
  Driver& d = driver();
  drain_device(device);
  auto streams = d.streams.all();
  for (Stream* stream : streams)
    if (stream->device == device) d.streams.remove(stream);
  auto events = d.events.all();
  for (Event* event : events)
    if (event->device == device) d.events.remove(event);
  auto executables = d.executables.all();
  for (GraphExec* exec : executables)
    if (exec->device == device) d.executables.remove(exec);
  memory_release_all(device);
  device->sticky = kSuccess;
  device->failure.clear();
}

}  // namespace emulator

using namespace emulator;

EXPORT Result cuInit(unsigned) {
  Lock lock(driver().lock);
  driver().initialised = true;
  return kSuccess;
}

EXPORT Result cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}

// The text says what went wrong where this thread's last failure was of that kind.
EXPORT Result cuGetErrorString(Result error, const char** text) {
  *text = message.empty() || error == kSuccess ? error_name(error) : message.c_str();
  return kSuccess;
}
EXPORT Result cuGetErrorName(Result error, const char** text) {
  *text = error_name(error);
  return kSuccess;
}

EXPORT Result cuDeviceGetCount(int* count) {
  *count = kDevices;
  return driver().initialised ? kSuccess : fail(kNotInitialized, "cuInit was not called");
}

EXPORT Result cuDeviceGet(int* device, int ordinal) {
  if (!find_device(ordinal)) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

EXPORT Result cuDeviceGetName(char* name, int bytes, int ordinal) {
  static const char* const kinds[] = {"forward", "reverse", "random"};
  if (!find_device(ordinal)) return kInvalidDevice;
  snprintf(name, (size_t)bytes, "Ferrum emulated GPU (%s)", kinds[ordinal / 2]);
  return kSuccess;
}

EXPORT Result cuDeviceGetUuid_v2(unsigned char* uuid, int ordinal) {
  if (!find_device(ordinal)) return kInvalidDevice;
  memcpy(uuid, "ferrum-emulator", 15);
  uuid[15] = (unsigned char)ordinal;
  return kSuccess;
}
EXPORT Result cuDeviceGetUuid(unsigned char* uuid, int ordinal) {
  return cuDeviceGetUuid_v2(uuid, ordinal);
}

EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, int ordinal) {
  if (!find_device(ordinal)) return kInvalidDevice;
  *bytes = kDeviceMemory;
  return kSuccess;
}

EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int ordinal) {
  if (!find_device(ordinal)) return kInvalidDevice;
  switch (attribute) {
    case 1: case 2: case 3: *value = kMaxThreads; break;  // threads a block; along x and y
    case 4: *value = 64; break;                           // along z
    case 5: *value = INT32_MAX; break;                    // blocks along x
    case 6: case 7: *value = 65535; break;                // along y and z
    case 8: *value = kSharedDefault; break;
    case 9: *value = 65536; break;                        // constant memory
    case 10: *value = 32; break;                          // warp
    case 12: case 82: *value = 65536; break;              // registers of a block, of a processor
    case 13: *value = 1410000; break;                     // clock, kHz
    case 16: *value = 8; break;                           // multiprocessors
    case 31: case 41: *value = 1; break;                  // concurrent kernels, unified addresses
    case 36: *value = 1215000; break;                     // memory clock, kHz
    case 37: *value = 5120; break;                        // memory bus, bits
    case 38: *value = 40 << 20; break;                    // L2 cache
    case 39: *value = 2048; break;                        // threads of a multiprocessor
    case 40: *value = 1; break;                           // copy engines
    case 75: *value = capability_of(ordinal) / 10; break;
    case 76: *value = capability_of(ordinal) % 10; break;
    case 81: *value = 164 << 10; break;                   // shared memory of a multiprocessor
    case 97: *value = kSharedOptIn; break;
    case 106: *value = 32; break;                         // blocks of a multiprocessor
    case 111: *value = 1024; break;                       // shared memory kept by the system
    case 115: *value = 1; break;                          // cuMemAllocAsync
    default:
      if (attribute < 1 || attribute > 150) return fail(kInvalidValue, "no such device attribute");
      *value = 0;
  }
  return kSuccess;
}

EXPORT Result cuDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return kSuccess;
}

EXPORT Result cuDevicePrimaryCtxRetain(void** context, int ordinal) {
  Lock lock(driver().lock);
  Device* device = find_device(ordinal);
  if (!device) return kInvalidDevice;
  device->retained++;
  *context = device;
  return kSuccess;
}

EXPORT Result cuDevicePrimaryCtxRelease_v2(int ordinal) {
  Lock lock(driver().lock);
  Device* device = find_device(ordinal);
  if (!device) return kInvalidDevice;
  if (device->retained == 0) return fail(kInvalidContext, "a context that nobody holds is released");
  if (--device->retained == 0) reset(device);
  return kSuccess;
}

EXPORT Result cuDevicePrimaryCtxReset_v2(int ordinal) {
  Lock lock(driver().lock);
  Device* device = find_device(ordinal);
  if (!device) return kInvalidDevice;
  reset(device);
  return kSuccess;
}

EXPORT Result cuCtxGetCurrent(void** context) {
  *context = current;
  return kSuccess;
}

EXPORT Result cuCtxSetCurrent(void* context) {
  Lock lock(driver().lock);
  auto* device = static_cast<Device*>(context);
  bool known = device >= driver().devices && device < driver().devices + kDevices;
  if (device && (!known || device->retained == 0))
    return fail(kInvalidContext, "cuCtxSetCurrent: not a context, or one that was released");
  set_current_device(device);
  return kSuccess;
}

EXPORT Result cuCtxGetDevice(int* ordinal) {
  if (!current_device()) return fail(kInvalidContext, "no context is current");
  *ordinal = current_device()->ordinal;
  return kSuccess;
}

EXPORT Result cuCtxSetFlags(unsigned) { return kSuccess; }
EXPORT Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return kSuccess;
}

EXPORT Result cuCtxSynchronize() {
  Lock lock(driver().lock);
  if (!current_device()) return fail(kInvalidContext, "no context is current");
  if (Result refused = refuse_while_capturing("cuCtxSynchronize")) return refused;
  return drain_device(current_device());
}

// --- for tests

// Leaves a device as a kernel does that touches what is not its own.
EXPORT void ferrum_emulator_break(int ordinal) {
  Lock lock(driver().lock);
  if (ordinal < 0 || ordinal >= kDevices) return;
  driver().devices[ordinal].sticky = fail(kIllegalAddress, "broken by a test");
  driver().devices[ordinal].failure = last_message();
}

// What the sticky error of a device was: bytes written without the terminator, 0 if there is none.
EXPORT size_t ferrum_emulator_failure(int ordinal, char* text, size_t bytes) {
  Lock lock(driver().lock);
  if (ordinal < 0 || ordinal >= kDevices) return 0;
  const std::string& failure = driver().devices[ordinal].failure;
  size_t n = std::min(bytes, failure.size());
  memcpy(text, failure.data(), n);
  return n;
}
