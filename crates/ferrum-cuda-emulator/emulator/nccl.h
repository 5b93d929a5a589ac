// What the parts of the emulated NCCL share.
#pragma once
#include <map>
#include <unordered_set>

#include "driver.h"

namespace emulator {

enum NcclResult {  // ncclResult_t
  kNcclSuccess = 0,
  kNcclUnhandledCudaError = 1,
  kNcclSystemError = 2,
  kNcclInvalidArgument = 4,
  kNcclInvalidUsage = 5,
};

enum class Kind { kReduce, kBroadcast, kGather };

// What one rank asks of a collective.
struct Part {
  Kind kind;
  size_t count;
  int type, op, root;
  uint64_t send, receive;
  bool come = false;
};

struct Collective {
  explicit Collective(size_t ranks) : parts(ranks) {}
  std::vector<Part> parts;  // by rank
  size_t come = 0;
  bool done = false;
  Result result = kSuccess;
  std::string message;  // why, for the ranks that waited
};

struct World;
struct Comm {
  std::shared_ptr<World> world;
  int rank;
  Device* device;
  uint64_t collectives = 0;              // how many this rank has come to
  uint64_t posted = 0;                   // how many were asked for, outside of groups by `poster`
  std::thread::id poster;
  std::unordered_set<Stream*> streams;   // where they were asked for
};

struct World {
  std::vector<Comm*> members;  // by rank; null before a rank joins and after it has left
  std::map<uint64_t, std::shared_ptr<Collective>> meetings;  // by number
};

// --- reduce.cpp
size_t width_of(int type);  // bytes; 0 if the type is not emulated
Result compute(const std::vector<Part>& parts);

}  // namespace emulator
