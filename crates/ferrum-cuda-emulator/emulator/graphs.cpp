// Capture of streams into graphs, and their replay. A graph's operations run in the order in which
// they were captured.
#include <algorithm>

#include "driver.h"

using namespace emulator;

EXPORT Result cuStreamBeginCapture_v2(void* handle, int mode) {
  Lock lock(driver().lock);
  Stream* stream = find_stream(handle);
  if (!stream) return kInvalidHandle;
  if (stream == &stream->device->legacy)
    return fail(kCaptureUnsupported, "the default stream cannot be captured");
  if (stream->capture) return fail(kInvalidValue, "the stream is captured already");
  if (mode < 0 || mode > 2) return fail(kInvalidValue, "no such capture mode");
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->mode = static_cast<CaptureMode>(mode);
  capture->thread = std::this_thread::get_id();
  stream->capture = capture;
  driver().captures.push_back(capture);
  return kSuccess;
}

static int capture_status(Stream* stream) {  // CUstreamCaptureStatus
  return !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
}

EXPORT Result cuStreamIsCapturing(void* handle, int* status) {
  Lock lock(driver().lock);
  Stream* stream = find_stream(handle);
  if (!stream) return kInvalidHandle;
  *status = capture_status(stream);
  return kSuccess;
}

EXPORT Result cuStreamEndCapture(void* handle, void** graph) {
  Lock lock(driver().lock);
  *graph = nullptr;
  Stream* stream = find_stream(handle);
  if (!stream) return kInvalidHandle;
  std::shared_ptr<Capture> capture = stream->capture;
  if (!capture) return fail(kInvalidValue, "cuStreamEndCapture: the stream is not captured");
  if (capture->origin != stream)
    return fail(kCaptureUnmatched, "cuStreamEndCapture: the capture began on another stream");
  if (capture->mode != CaptureMode::kRelaxed && capture->thread != std::this_thread::get_id())
    return fail(kCaptureWrongThread, "cuStreamEndCapture: the capture began on another thread");
  for (Stream* other : driver().streams.all())
    if (other->capture == capture) other->capture = nullptr;
  auto& captures = driver().captures;
  captures.erase(std::remove(captures.begin(), captures.end(), capture), captures.end());
  if (capture->invalid) return fail(kCaptureInvalidated, "the capture has become invalid");
  if (!capture->unjoined.empty())
    return fail(kCaptureUnjoined, "cuStreamEndCapture: a forked stream was not joined");
  *graph = driver().graphs.add(std::move(capture->graph));
  return kSuccess;
}

EXPORT Result cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
  Lock lock(driver().lock);
  Graph* graph = driver().graphs.find(handle);
  if (!graph) return fail(kInvalidHandle, "cuGraphGetNodes: not a graph");
  if (nodes) return fail(kNotSupported, "cuGraphGetNodes: only the count is emulated");
  *count = graph->operations.size();
  return kSuccess;
}

EXPORT Result cuGraphDestroy(void* handle) {
  Lock lock(driver().lock);
  Graph* graph = driver().graphs.find(handle);
  if (!graph) return fail(kInvalidHandle, "cuGraphDestroy: not a graph");
  driver().graphs.remove(graph);
  return kSuccess;
}

EXPORT Result cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long) {
  Lock lock(driver().lock);
  Graph* graph = driver().graphs.find(handle);
  if (!graph) return fail(kInvalidHandle, "cuGraphInstantiate: not a graph");
  if (!current_device()) return fail(kInvalidContext, "cuGraphInstantiate: no context is current");
  auto exec = std::make_unique<GraphExec>();
  exec->device = current_device();
  exec->operations = std::make_shared<const std::vector<Operation>>(graph->operations);
  *executable = driver().executables.add(std::move(exec));
  return kSuccess;
}

EXPORT Result cuGraphUpload(void* handle, void* stream) {
  Lock lock(driver().lock);
  if (!driver().executables.find(handle)) return fail(kInvalidHandle, "cuGraphUpload: no such graph");
  return find_stream(stream) ? kSuccess : kInvalidHandle;
}

EXPORT Result cuGraphExecDestroy(void* handle) {
  Lock lock(driver().lock);
  GraphExec* exec = driver().executables.find(handle);
  if (!exec) return fail(kInvalidHandle, "cuGraphExecDestroy: not an instantiated graph");
  driver().executables.remove(exec);
  return kSuccess;
}

// A card would read or write what has taken the place of the freed memory.
static Result check_pointers(const std::vector<Operation>& operations) {
  for (const Operation& operation : operations)
    for (uint64_t pointer : operation.pointers)
      if (!memory_is_live(pointer))
        return fail(kIllegalAddress, std::string("replay of a graph: ") + operation.what +
                                         " mentions freed memory: " + memory_describe(pointer));
  return kSuccess;
}

EXPORT Result cuGraphLaunch(void* handle, void* stream_handle) {
  Lock lock(driver().lock);
  GraphExec* exec = driver().executables.find(handle);
  if (!exec) return fail(kInvalidHandle, "cuGraphLaunch: not an instantiated graph");
  Stream* stream = find_stream(stream_handle);
  if (!stream) return kInvalidHandle;
  if (stream->device != exec->device)
    return fail(kInvalidValue, "cuGraphLaunch: graph and stream are of different devices");
  // Shared: the graph may be destroyed before its work has run.
  std::shared_ptr<const std::vector<Operation>> operations = exec->operations;
  auto check = [operations] { return check_pointers(*operations); };
  if (stream->capture) {
    auto run = [operations, check] {
      if (Result stale = check()) return stale;
      for (const Operation& operation : *operations)
        if (Result failed = operation.run()) return failed;
      return kSuccess;
    };
    return submit(stream, {run, {}, "a graph"});
  }
  // Piece by piece, as a rank that waits in one collective of a graph runs those of the others up to
  // the same one, and no further.
  if (Result failed = submit(stream, {check, {}, "a graph"})) return failed;
  for (const Operation& operation : *operations) {
    auto run = [operations, &operation] { return operation.run(); };
    if (Result failed = submit(stream, {run, {}, "a piece of a graph"})) return failed;
  }
  return kSuccess;
}
