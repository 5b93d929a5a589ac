// What the parts of the emulated driver (libcuda) share. One lock guards all of it.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "../device/emulator_abi.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emulator {

// CUresult, as far as it is used here.
enum Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kNoBinaryForGpu = 209,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kMisalignedAddress = 716,
  kLaunchFailed = 719,
  kNotSupported = 801,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901,
  kCaptureUnmatched = 903,
  kCaptureUnjoined = 904,
  kCaptureWrongThread = 908,
};
const char* error_name(Result result);

// Handles that the caller may pass back: anything else is an error, not a crash.
template <class T>
class Handles {
 public:
  T* add(std::unique_ptr<T> object) {
    T* handle = object.release();
    live_.insert(handle);
    return handle;
  }
  T* find(void* handle) const {
    T* object = static_cast<T*>(handle);
    return live_.count(object) ? object : nullptr;
  }
  void remove(T* handle) {
    if (live_.erase(handle)) delete handle;
  }
  const std::unordered_set<T*>& all() const { return live_; }

 private:
  std::unordered_set<T*> live_;
};

enum class Schedule { kForward, kReverse, kRandom };
constexpr int kDevices = 9;
constexpr size_t kDeviceMemory = size_t(8) << 30;
constexpr unsigned kSharedDefault = 48 << 10, kSharedOptIn = 163 << 10;
constexpr unsigned kMaxThreads = 1024;

struct Device;
struct Stream;

// A node of a graph or a piece of a stream: what it does, and the device memory that it mentions.
struct Operation {
  std::function<Result()> run;
  std::vector<uint64_t> pointers;
  const char* what;
  bool always = false;  // runs even after an error, as events must be reached
};

struct Graph {
  std::vector<Operation> operations;
};
struct GraphExec {
  Device* device;
  std::shared_ptr<const std::vector<Operation>> operations;
};

enum class CaptureMode { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };
struct Capture {
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  Stream* origin = nullptr;
  CaptureMode mode = CaptureMode::kGlobal;
  std::thread::id thread;
  bool invalid = false;
  std::unordered_set<Stream*> unjoined;  // streams that forked off and have not come back
};

struct Stream {
  Device* device = nullptr;
  bool blocking = true;  // waits for the legacy default stream, and that one for it
  std::deque<Operation> queue;
  bool busy = false;  // an operation has begun and waits, with the lock released, for other ranks
  std::thread::id runner;  // and which thread runs it
  std::shared_ptr<Capture> capture;
};

// One recording of an event.
struct Mark {
  bool reached = false;
  Stream* stream = nullptr;
  std::chrono::steady_clock::time_point when;
};
struct Event {
  Device* device = nullptr;
  bool timed = true;
  std::shared_ptr<Mark> mark;            // the newest recording outside of a capture
  std::shared_ptr<Capture> capture;      // or the capture it was recorded in
  Stream* captured_on = nullptr;
};

// A device with its primary context; a CUcontext is a pointer to it.
struct Device {
  int ordinal = 0;
  int retained = 0;
  size_t used = 0;
  Result sticky = kSuccess;
  std::string failure;  // what the sticky error was
  Stream legacy;        // the default stream
};

struct Module;
struct Function {
  Module* module;
  const KernelEntry* entry;
  int max_dynamic_shared = kSharedDefault;
};
struct Module {
  Device* device = nullptr;
  void* library = nullptr;
  int file = -1;  // stays open, since the loader knows the library by the file's number
  std::vector<std::unique_ptr<Function>> functions;
  bool checks_races = false;  // compiled to report each of its accesses
  unsigned char* shared_begin = nullptr;
  unsigned char* shared_end = nullptr;
};

// Everything there is in the process.
struct Driver {
  std::recursive_mutex lock;
  std::condition_variable_any changed;  // some stream has more work, or has done some
  bool initialised = false;
  Device devices[kDevices];
  Handles<Stream> streams;
  Handles<Event> events;
  Handles<Graph> graphs;
  Handles<GraphExec> executables;
  Handles<Module> modules;
  std::vector<std::shared_ptr<Capture>> captures;  // under way
};
Driver& driver();
using Lock = std::lock_guard<std::recursive_mutex>;

Schedule schedule_of(int ordinal);
int capability_of(int ordinal);  // 80 for 8.0
Device* current_device();  // of this thread's current context; null if it has none
void set_current_device(Device* device);

// Remembers the message (also for cuGetErrorString on this thread) and prints it.
Result fail(Result result, const std::string& message);
const char* last_message();

// --- memory.cpp
Result memory_allocate(Device* device, size_t bytes, uint64_t* address);
Result memory_free(uint64_t address);
bool memory_is_live(uint64_t address);              // inside a live allocation
Result memory_check(uint64_t address, size_t bytes, const char* what);
std::string memory_describe(uint64_t address);      // for the report of a fault
bool memory_in_arena(uint64_t address);
void memory_release_all(Device* device);
Result host_allocate(size_t bytes, void** pointer);
Result host_free(void* pointer);
bool host_is_pinned(const void* pointer);

// --- streams.cpp
Stream* find_stream(void* handle);
Result submit(Stream* stream, Operation operation);
Result drain(Stream* stream);
Result drain_device(Device* device);
// Runs the oldest operation, or waits for the thread that does. An error means that it never ends.
Result run_next(Stream* stream);
bool has_work(const Stream* stream);
// An error, which also spoils captures under way, if such a call is not allowed now.
Result refuse_while_capturing(const char* call);
Result refuse_on_capturing(Stream* stream, const char* call);

// --- scheduler.cpp
struct Launch {
  const Function* function;
  Index3 grid, block;
  unsigned dynamic_shared;
  std::vector<uint64_t> packed;  // the arguments
};
Result run_kernel(Device* device, const Launch& launch);
// Fills with a number that is NaN as f32, as two f16 and as two bf16, and a wild index.
constexpr uint32_t kPoison = 0x7ffb7ffd;
void poison(void* begin, size_t bytes);

// --- modules.cpp
void loading_checks_races();  // says the module that is being loaded
Result module_load(Device* device, const void* image, Module** module);

}  // namespace emulator
