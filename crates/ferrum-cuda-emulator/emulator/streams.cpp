// Streams are lazy: their work waits until somebody synchronises with it, so that a host which
// forgets to do so sees old values. Then it runs on the thread that waits.
#include <algorithm>

#include "driver.h"

namespace emulator {

// A host that never waits must not pile up work without end.
constexpr size_t kLongestQueue = 1024;

Stream* find_stream(void* handle) {
  uintptr_t number = reinterpret_cast<uintptr_t>(handle);
  if (number == 0 || number == 1) {  // the legacy default stream of the current context
    Device* device = current_device();
    if (!device) return fail(kInvalidContext, "no context is current"), nullptr;
    return &device->legacy;
  }
  Stream* stream = driver().streams.find(handle);
  if (!stream) fail(kInvalidHandle, "not a stream, or one that was destroyed");
  return stream;
}

bool has_work(const Stream* stream) { return stream->busy || !stream->queue.empty(); }

static void blame(Device* device, Result result) {
  if (result == kSuccess || device->sticky != kSuccess) return;
  device->sticky = result;
  device->failure = last_message();
}

Result run_next(Stream* stream) {
  Device* device = stream->device;
  if (stream->busy && stream->runner == std::this_thread::get_id()) {
    fail(kLaunchFailed, "a stream waits, by way of another one, for itself");
    blame(device, kLaunchFailed);
    return kLaunchFailed;
  }
  if (stream->busy) {
    driver().changed.wait(driver().lock);
    return kSuccess;
  }
  if (stream->queue.empty()) return kSuccess;
  Operation operation = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (device->sticky != kSuccess && !operation.always) return kSuccess;
  stream->busy = true;
  stream->runner = std::this_thread::get_id();
  Result result = operation.run();
  stream->busy = false;
  blame(device, result);
  driver().changed.notify_all();
  return kSuccess;
}

Result drain(Stream* stream) {
  while (has_work(stream) && run_next(stream) == kSuccess) {}
  return stream->device->sticky;
}

// The legacy default stream and the blocking ones wait for each other.
static void order_with_legacy(Stream* stream) {
  Device* device = stream->device;
  if (stream == &device->legacy) {
    for (Stream* other : driver().streams.all())
      if (other->device == device && other->blocking) drain(other);
  } else if (stream->blocking) {
    drain(&device->legacy);
  }
}

static Result record(Stream* stream, Operation operation) {
  Capture& capture = *stream->capture;
  if (capture.invalid) return fail(kCaptureInvalidated, "the capture has become invalid");
  if (stream != capture.origin) capture.unjoined.insert(stream);
  capture.graph->operations.push_back(std::move(operation));
  return kSuccess;
}

Result submit(Stream* stream, Operation operation) {
  if (stream->capture) return record(stream, std::move(operation));
  Device* device = stream->device;
  if (device->sticky != kSuccess && !operation.always) return device->sticky;
  order_with_legacy(stream);
  stream->queue.push_back(std::move(operation));
  driver().changed.notify_all();
  if (stream->queue.size() > kLongestQueue) run_next(stream);
  return kSuccess;
}

Result drain_device(Device* device) {
  for (Stream* stream : driver().streams.all())
    if (stream->device == device) drain(stream);
  return drain(&device->legacy);
}

// CUDA's rule: a thread that captures, other than in relaxed mode, may make no unsafe call, and no
// thread may while any captures in global mode.
Result refuse_while_capturing(const char* call) {
  bool refused = false;
  for (auto& capture : driver().captures) {
    bool own = capture->thread == std::this_thread::get_id() &&
               capture->mode != CaptureMode::kRelaxed;
    if (!own && capture->mode != CaptureMode::kGlobal) continue;
    capture->invalid = refused = true;
  }
  if (!refused) return kSuccess;
  return fail(kCaptureUnsupported, std::string(call) + " is not allowed while a stream is captured");
}

Result refuse_on_capturing(Stream* stream, const char* call) {
  if (!stream->capture) return kSuccess;
  stream->capture->invalid = true;
  return fail(kCaptureUnsupported, std::string(call) + " on a stream that is captured");
}

}  // namespace emulator

using namespace emulator;

#define FIND_STREAM(name, handle)      \
  Stream* name = find_stream(handle);  \
  if (!name) return kInvalidHandle

EXPORT Result cuStreamCreate(void** handle, unsigned flags) {
  Lock lock(driver().lock);
  Device* device = current_device();
  if (!device) return fail(kInvalidContext, "cuStreamCreate: no context is current");
  auto stream = std::make_unique<Stream>();
  stream->device = device;
  stream->blocking = !(flags & 1);
  *handle = driver().streams.add(std::move(stream));
  return kSuccess;
}
EXPORT Result cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
  return cuStreamCreate(handle, flags);
}

EXPORT Result cuStreamDestroy_v2(void* handle) {
  Lock lock(driver().lock);
  Stream* stream = driver().streams.find(handle);
  if (!stream) return fail(kInvalidHandle, "cuStreamDestroy: not a stream");
  if (stream->capture) {
    stream->capture->invalid = true;
    auto& captures = driver().captures;
    if (stream->capture->origin == stream)
      captures.erase(std::remove(captures.begin(), captures.end(), stream->capture), captures.end());
  }
  drain(stream);
  driver().streams.remove(stream);
  return kSuccess;
}

EXPORT Result cuStreamSynchronize(void* handle) {
  Lock lock(driver().lock);
  FIND_STREAM(stream, handle);
  if (Result refused = refuse_on_capturing(stream, "cuStreamSynchronize")) return refused;
  return drain(stream);
}

// Each question runs one more piece of the work, so that a loop of questions ends.
EXPORT Result cuStreamQuery(void* handle) {
  Lock lock(driver().lock);
  FIND_STREAM(stream, handle);
  if (Result refused = refuse_on_capturing(stream, "cuStreamQuery")) return refused;
  if (!stream->busy) run_next(stream);
  if (stream->device->sticky != kSuccess) return stream->device->sticky;
  return has_work(stream) ? kNotReady : kSuccess;
}

EXPORT Result cuStreamGetCtx(void* handle, void** context) {
  Lock lock(driver().lock);
  FIND_STREAM(stream, handle);
  *context = stream->device;
  return kSuccess;
}

EXPORT Result cuLaunchHostFunc(void* handle, void (*function)(void*), void* argument) {
  Lock lock(driver().lock);
  FIND_STREAM(stream, handle);
  auto run = [=] { return function(argument), kSuccess; };
  return submit(stream, {run, {}, "cuLaunchHostFunc"});
}

// --- events

EXPORT Result cuEventCreate(void** handle, unsigned flags) {
  Lock lock(driver().lock);
  if (!current_device()) return fail(kInvalidContext, "cuEventCreate: no context is current");
  auto event = std::make_unique<Event>();
  event->device = current_device();
  event->timed = !(flags & 2);
  *handle = driver().events.add(std::move(event));
  return kSuccess;
}

#define FIND_EVENT(name, handle)              \
  Event* name = driver().events.find(handle); \
  if (!name) return fail(kInvalidHandle, "not an event, or one that was destroyed")

EXPORT Result cuEventDestroy_v2(void* handle) {
  Lock lock(driver().lock);
  FIND_EVENT(event, handle);
  driver().events.remove(event);
  return kSuccess;
}

EXPORT Result cuEventRecord(void* handle, void* stream_handle) {
  Lock lock(driver().lock);
  FIND_EVENT(event, handle);
  FIND_STREAM(stream, stream_handle);
  if (event->device != stream->device)
    return fail(kInvalidHandle, "cuEventRecord: event and stream are of different devices");
  if (stream->capture) {
    event->capture = stream->capture;
    event->captured_on = stream;
    event->mark = nullptr;
    return kSuccess;
  }
  auto mark = std::make_shared<Mark>();
  mark->stream = stream;
  event->mark = mark;
  event->capture = nullptr;
  auto run = [mark] {
    mark->reached = true;
    mark->when = std::chrono::steady_clock::now();
    return kSuccess;
  };
  return submit(stream, {run, {}, "cuEventRecord", true});
}

// The work of the event's stream up to the event.
static void reach(const std::shared_ptr<Mark>& mark) {
  while (!mark->reached && has_work(mark->stream) && run_next(mark->stream) == kSuccess) {}
}

// A capture that has ended leaves its events without meaning.
static Result refuse_if_ended(Event* event) {
  auto& captures = driver().captures;
  if (!event->capture ||
      std::find(captures.begin(), captures.end(), event->capture) != captures.end())
    return kSuccess;
  return fail(kInvalidValue, "the event was recorded in a capture that has ended");
}

// A wait inside a capture: another stream joins it, or comes back to it.
static Result wait_in_capture(Stream* stream, Event* event) {
  if (!event->capture) {
    stream->capture->invalid = true;
    return fail(kCaptureUnsupported, "a captured stream waits for an event from outside");
  }
  if (stream->capture && stream->capture != event->capture) {
    stream->capture->invalid = event->capture->invalid = true;
    return fail(kCaptureUnsupported, "one captured stream waits for another's event");
  }
  Capture& capture = *event->capture;
  if (!stream->capture) stream->capture = event->capture;
  if (stream != capture.origin) capture.unjoined.insert(stream);
  if (event->captured_on != stream) capture.unjoined.erase(event->captured_on);
  return kSuccess;
}

EXPORT Result cuStreamWaitEvent(void* stream_handle, void* handle, unsigned) {
  Lock lock(driver().lock);
  FIND_EVENT(event, handle);
  FIND_STREAM(stream, stream_handle);
  if (Result refused = refuse_if_ended(event)) return refused;
  if (stream->capture || event->capture) return wait_in_capture(stream, event);
  if (!event->mark) return kSuccess;  // never recorded
  auto run = [mark = event->mark] { return reach(mark), kSuccess; };
  return submit(stream, {run, {}, "cuStreamWaitEvent"});
}

static Result refuse_captured(Event* event, const char* call) {
  if (!event->capture) return kSuccess;
  event->capture->invalid = true;
  return fail(kCaptureUnsupported, std::string(call) + " of an event that was recorded in a capture");
}

EXPORT Result cuEventSynchronize(void* handle) {
  Lock lock(driver().lock);
  FIND_EVENT(event, handle);
  if (Result refused = refuse_captured(event, "cuEventSynchronize")) return refused;
  if (event->mark) reach(event->mark);
  return event->device->sticky;
}

EXPORT Result cuEventQuery(void* handle) {
  Lock lock(driver().lock);
  FIND_EVENT(event, handle);
  if (Result refused = refuse_captured(event, "cuEventQuery")) return refused;
  if (event->mark && !event->mark->reached && !event->mark->stream->busy)
    run_next(event->mark->stream);
  if (event->device->sticky != kSuccess) return event->device->sticky;
  return !event->mark || event->mark->reached ? kSuccess : kNotReady;
}

EXPORT Result cuEventElapsedTime_v2(float* milliseconds, void* from_handle, void* to_handle) {
  Lock lock(driver().lock);
  FIND_EVENT(from, from_handle);
  FIND_EVENT(to, to_handle);
  if (!from->mark || !to->mark || !from->timed || !to->timed)
    return fail(kInvalidHandle, "cuEventElapsedTime: an event was not recorded or has no time");
  if (!from->mark->reached || !to->mark->reached) return kNotReady;
  std::chrono::duration<float, std::milli> elapsed = to->mark->when - from->mark->when;
  *milliseconds = elapsed.count();
  return kSuccess;
}
EXPORT Result cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  return cuEventElapsedTime_v2(milliseconds, from, to);
}
