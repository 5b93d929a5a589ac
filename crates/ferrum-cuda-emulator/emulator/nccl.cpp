// Collectives between the emulated devices of this process, one rank for each, on one thread or
// many. A rank's part is work of its stream like any other; the rank that comes last computes for
// all. Those that came earlier run the streams of the others, and if these have nothing to run,
// wait for their threads.
#include "nccl.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace emulator {

namespace {
// A card would wait for ever for a rank that never comes.
constexpr std::chrono::seconds kPatience(30);

struct UniqueId {
  char bytes[128];
};

std::map<std::string, std::weak_ptr<World>>& worlds() {
  static auto* map = new std::map<std::string, std::weak_ptr<World>>;
  return *map;
}

Handles<Comm>& comms() {
  static auto* handles = new Handles<Comm>;
  return *handles;
}

// Depth of ncclGroupStart on this thread, and the worlds it joined inside.
thread_local int group_depth = 0;
thread_local std::vector<std::shared_ptr<World>> joined_in_group;

thread_local std::string nccl_message = "no error";
NcclResult refuse(NcclResult result, const std::string& text) {
  nccl_message = text;
  fprintf(stderr, "[emulated NCCL] %s\n", text.c_str());
  return result;
}

// The result of an operation of the stream, which then fails as a whole.
Result broken(const std::string& text) {
  nccl_message = text;
  return fail(kLaunchFailed, "NCCL: " + text);
}

bool is_complete(const World& world) {
  return std::all_of(world.members.begin(), world.members.end(), [](Comm* c) { return c; });
}

NcclResult wait_for_all(const std::shared_ptr<World>& world) {
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!is_complete(*world))
    if (driver().changed.wait_until(driver().lock, deadline) == std::cv_status::timeout)
      return refuse(kNcclSystemError, "ncclCommInitRank: not all ranks came");
  return kNcclSuccess;
}

NcclResult join(void** handle, const std::string& id, int ranks, int rank, Device* device) {
  if (ranks < 1 || rank < 0 || rank >= ranks)
    return refuse(kNcclInvalidArgument, "no rank " + std::to_string(rank) + " of " +
                                            std::to_string(ranks));
  std::shared_ptr<World> world = worlds()[id].lock();
  if (!world) {
    world = std::make_shared<World>();
    world->members.resize((size_t)ranks);
    worlds()[id] = world;
  }
  if (world->members.size() != (size_t)ranks || world->members[(size_t)rank])
    return refuse(kNcclInvalidUsage, "ranks disagree about their number, or one came twice");
  for (Comm* other : world->members)
    if (other && other->device == device)
      return refuse(kNcclInvalidUsage, "two ranks on one device");
  auto comm = std::make_unique<Comm>();
  comm->world = world;
  comm->rank = rank;
  comm->device = device;
  Comm* made = comms().add(std::move(comm));
  world->members[(size_t)rank] = made;
  *handle = made;
  driver().changed.notify_all();
  if (group_depth > 0) return joined_in_group.push_back(world), kNcclSuccess;
  return wait_for_all(world);
}

// --- one collective

// A rank, and its communicator while it was one.
struct Member {
  size_t rank;
  const Comm* comm;
};

// Whether some rank that has not come to this collective could come; runs a piece of its work.
Result move_others(World& world, const Collective& meeting, uint64_t number) {
  for (size_t rank = 0; rank < world.members.size(); rank++) {
    if (meeting.parts[rank].come) continue;
    Comm* other = world.members[rank];
    std::string name = "rank " + std::to_string(rank);
    if (!other) return broken(name + " has left before collective " + std::to_string(number));
    if (other->device->sticky != kSuccess) return broken(name + " has failed");
    for (Stream* stream : other->streams) {
      if (!driver().streams.find(stream) && stream != &other->device->legacy) continue;
      if (stream->busy || stream->queue.empty()) continue;
      return run_next(stream);
    }
  }
  return kNotReady;
}

Result wait_for_others(World& world, const Member& self, Collective& meeting, uint64_t number) {
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!meeting.done) {
    if (world.members[self.rank] != self.comm) return broken("the communicator was aborted");
    Result moved = move_others(world, meeting, number);
    if (moved == kSuccess) deadline = std::chrono::steady_clock::now() + kPatience;
    else if (moved != kNotReady) return moved;
    else if (driver().changed.wait_until(driver().lock, deadline) == std::cv_status::timeout)
      return broken("not all ranks came to collective " + std::to_string(number));
  }
  return meeting.result == kSuccess ? kSuccess : fail(meeting.result, meeting.message);
}

// This rank's part, when its stream has come to it. Another thread may abort the communicator while
// it waits, and it may be the last of its world.
Result take_part(Comm* comm, const Part& part) {
  std::shared_ptr<World> kept = comm->world;
  World& world = *kept;
  uint64_t number = comm->collectives++;
  std::shared_ptr<Collective>& slot = world.meetings[number];
  if (!slot) slot = std::make_shared<Collective>(world.members.size());
  std::shared_ptr<Collective> meeting = slot;
  meeting->parts[(size_t)comm->rank] = part;
  meeting->parts[(size_t)comm->rank].come = true;
  if (++meeting->come < world.members.size()) {
    Member self{(size_t)comm->rank, comm};
    return wait_for_others(world, self, *meeting, number);
  }
  meeting->result = compute(meeting->parts);
  if (meeting->result != kSuccess) meeting->message = nccl_message = last_message();
  meeting->done = true;
  world.meetings.erase(number);
  driver().changed.notify_all();
  return meeting->result;
}

// On a card this thread would now wait for a rank that only it can bring.
bool runs_ahead(const Comm* comm) {
  auto ahead = [comm](const Comm* other) {
    return other && other->poster == std::this_thread::get_id() && other->posted > comm->posted;
  };
  const auto& members = comm->world->members;
  return std::any_of(members.begin(), members.end(), ahead);
}

NcclResult post(void* handle, void* stream_handle, const Part& part, size_t read, size_t written) {
  Comm* comm = comms().find(handle);
  if (!comm) return refuse(kNcclInvalidArgument, "not a communicator");
  Stream* stream = find_stream(stream_handle);
  if (!stream) return refuse(kNcclInvalidArgument, "not a stream");
  if (stream->device != comm->device)
    return refuse(kNcclInvalidUsage, "the stream is of another device than the communicator");
  size_t width = width_of(part.type);
  if (!width) return refuse(kNcclInvalidArgument, "the type is not emulated");
  if (part.kind == Kind::kReduce && (part.op < 0 || part.op > 4))
    return refuse(kNcclInvalidArgument, "no such reduction");
  bool reads = part.kind != Kind::kBroadcast || part.root == comm->rank;
  if ((reads && memory_check(part.send, read * width, "NCCL: what is sent")) ||
      memory_check(part.receive, written * width, "NCCL: what is received"))
    return refuse(kNcclInvalidArgument, last_message());
  if (part.root < 0 || part.root >= (int)comm->world->members.size())
    return refuse(kNcclInvalidArgument, "no such root");
  if (group_depth == 0 && runs_ahead(comm))
    return refuse(kNcclInvalidUsage, "one thread asks for several ranks outside of a group");
  comm->posted++;
  comm->poster = group_depth == 0 ? std::this_thread::get_id() : std::thread::id();
  comm->streams.insert(stream);
  std::vector<uint64_t> pointers = {part.receive};
  if (reads) pointers.push_back(part.send);
  auto run = [comm, part]() -> Result {
    if (!comms().find(comm)) return broken("the communicator was destroyed");
    return take_part(comm, part);
  };
  return submit(stream, {run, pointers, "an NCCL collective"}) ? kNcclUnhandledCudaError
                                                               : kNcclSuccess;
}
}  // namespace

}  // namespace emulator

using namespace emulator;

EXPORT NcclResult ncclGetVersion(int* version) {
  *version = 22800;
  return kNcclSuccess;
}

EXPORT NcclResult ncclGetUniqueId(UniqueId* id) {
  Lock lock(driver().lock);
  static unsigned next = 0;
  memset(id, 0, sizeof *id);
  snprintf(id->bytes, sizeof id->bytes, "ferrum-emulator-%u", next++);
  return kNcclSuccess;
}

EXPORT NcclResult ncclCommInitRank(void** comm, int ranks, UniqueId id, int rank) {
  Lock lock(driver().lock);
  if (!current_device()) return refuse(kNcclUnhandledCudaError, "no context is current");
  return join(comm, std::string(id.bytes, sizeof id.bytes), ranks, rank, current_device());
}
EXPORT NcclResult ncclCommInitRankConfig(void** comm, int ranks, UniqueId id, int rank, void*) {
  return ncclCommInitRank(comm, ranks, id, rank);
}

EXPORT NcclResult ncclCommInitAll(void** handles, int ranks, const int* devices) {
  Lock lock(driver().lock);
  UniqueId id;
  ncclGetUniqueId(&id);
  group_depth++;
  NcclResult result = kNcclSuccess;
  for (int rank = 0; rank < ranks && !result; rank++) {
    int ordinal = devices ? devices[rank] : rank;
    if (ordinal < 0 || ordinal >= kDevices || !driver().devices[ordinal].retained)
      result = refuse(kNcclInvalidArgument, "no such device, or one without a context");
    else
      result = join(&handles[rank], std::string(id.bytes, sizeof id.bytes), ranks, rank,
                    &driver().devices[ordinal]);
  }
  group_depth--;
  return result;
}

EXPORT NcclResult ncclCommDestroy(void* handle) {
  Lock lock(driver().lock);
  Comm* comm = comms().find(handle);
  if (!comm) return refuse(kNcclInvalidArgument, "not a communicator");
  auto streams = comm->streams;
  for (Stream* stream : streams)
    if (driver().streams.find(stream) || stream == &comm->device->legacy) drain(stream);
  comm->world->members[(size_t)comm->rank] = nullptr;
  comms().remove(comm);
  driver().changed.notify_all();
  return kNcclSuccess;
}
EXPORT NcclResult ncclCommAbort(void* handle) {
  Lock lock(driver().lock);
  Comm* comm = comms().find(handle);
  if (!comm) return refuse(kNcclInvalidArgument, "not a communicator");
  comm->world->members[(size_t)comm->rank] = nullptr;
  comms().remove(comm);
  driver().changed.notify_all();
  return kNcclSuccess;
}
EXPORT NcclResult ncclCommFinalize(void* handle) {
  Lock lock(driver().lock);
  return comms().find(handle) ? kNcclSuccess : refuse(kNcclInvalidArgument, "not a communicator");
}

#define COMM_VALUE(name, value)                                                  \
  EXPORT NcclResult name(void* handle, int* out) {                               \
    Lock lock(driver().lock);                                                    \
    Comm* comm = comms().find(handle);                                           \
    if (!comm) return refuse(kNcclInvalidArgument, "not a communicator");        \
    *out = (int)(value);                                                         \
    return kNcclSuccess;                                                         \
  }
COMM_VALUE(ncclCommCount, comm->world->members.size())
COMM_VALUE(ncclCommUserRank, comm->rank)
COMM_VALUE(ncclCommCuDevice, comm->device->ordinal)
COMM_VALUE(ncclCommGetAsyncError, comm->device->sticky ? kNcclUnhandledCudaError : kNcclSuccess)

EXPORT NcclResult ncclGroupStart() {
  group_depth++;
  return kNcclSuccess;
}
EXPORT NcclResult ncclGroupEnd() {
  Lock lock(driver().lock);
  if (group_depth == 0) return refuse(kNcclInvalidUsage, "ncclGroupEnd without a start");
  if (--group_depth > 0) return kNcclSuccess;
  auto joined = std::move(joined_in_group);
  joined_in_group.clear();
  for (auto& world : joined)
    if (NcclResult result = wait_for_all(world)) return result;
  return kNcclSuccess;
}

EXPORT NcclResult ncclAllReduce(const void* send, void* receive, size_t count, int type, int op,
                                void* comm, void* stream) {
  Lock lock(driver().lock);
  Part part{Kind::kReduce, count, type, op, 0, (uint64_t)send, (uint64_t)receive};
  return post(comm, stream, part, count, count);
}
EXPORT NcclResult ncclBroadcast(const void* send, void* receive, size_t count, int type, int root,
                                void* comm, void* stream) {
  Lock lock(driver().lock);
  Part part{Kind::kBroadcast, count, type, 0, root, (uint64_t)send, (uint64_t)receive};
  return post(comm, stream, part, count, count);
}
EXPORT NcclResult ncclAllGather(const void* send, void* receive, size_t count, int type, void* comm,
                                void* stream) {
  Lock lock(driver().lock);
  Comm* known = comms().find(comm);
  size_t ranks = known ? known->world->members.size() : 1;
  Part part{Kind::kGather, count, type, 0, 0, (uint64_t)send, (uint64_t)receive};
  return post(comm, stream, part, count, ranks * count);
}

EXPORT const char* ncclGetErrorString(NcclResult result) {
  switch (result) {
    case kNcclSuccess: return "no error";
    case kNcclUnhandledCudaError: return "unhandled cuda error";
    case kNcclSystemError: return "unhandled system error";
    case kNcclInvalidArgument: return "invalid argument";
    case kNcclInvalidUsage: return "invalid usage";
  }
  return "unknown result code";
}
EXPORT const char* ncclGetLastError(void*) { return nccl_message.c_str(); }
