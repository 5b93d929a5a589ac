// The arithmetic of collectives. Halves are added up in f32 in the order of the ranks and rounded
// once, where NCCL rounds at every step: results agree only within rounding.
#include <algorithm>
#include <cstring>

#include "nccl.h"

namespace emulator {

namespace {
enum Type { kInt8 = 0, kUint8 = 1, kInt32 = 2, kUint32 = 3, kInt64 = 4, kUint64 = 5,
            kFloat16 = 6, kFloat32 = 7, kFloat64 = 8, kBfloat16 = 9 };
enum Op { kSum = 0, kProduct = 1, kMax = 2, kMin = 3, kAverage = 4 };

struct Bfloat16 {
  uint16_t bits;
  operator float() const {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
  }
  static Bfloat16 of(float value) {
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    if (value != value) return {0x7fff};
    return {(uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
  }
};
template <class T, class Sum> T narrow(Sum sum) {
  if constexpr (std::is_same_v<T, Bfloat16>) return Bfloat16::of(sum);
  else return (T)sum;
}

void* at(uint64_t address) { return reinterpret_cast<void*>(address); }

template <class Sum>
Sum combine(Sum a, Sum b, int op) {
  switch (op) {
    case kProduct: return a * b;
    case kMax: return std::max(a, b);
    case kMin: return std::min(a, b);
    default: return a + b;
  }
}

template <class T, class Sum>
void reduce(const std::vector<Part>& parts) {
  std::vector<T> result(parts[0].count);
  for (size_t i = 0; i < result.size(); i++) {
    Sum sum = (Sum) static_cast<T*>(at(parts[0].send))[i];
    for (size_t rank = 1; rank < parts.size(); rank++)
      sum = combine<Sum>(sum, (Sum) static_cast<T*>(at(parts[rank].send))[i], parts[0].op);
    if (parts[0].op == kAverage) sum = sum / (Sum)parts.size();
    result[i] = narrow<T, Sum>(sum);
  }
  for (const Part& part : parts) memcpy(at(part.receive), result.data(), result.size() * sizeof(T));
}

void reduce_any(const std::vector<Part>& parts) {
  switch (parts[0].type) {
    case kInt8: return reduce<int8_t, int>(parts);
    case kUint8: return reduce<uint8_t, unsigned>(parts);
    case kInt32: return reduce<int32_t, int64_t>(parts);
    case kUint32: return reduce<uint32_t, uint64_t>(parts);
    case kInt64: return reduce<int64_t, int64_t>(parts);
    case kUint64: return reduce<uint64_t, uint64_t>(parts);
    case kFloat16: return reduce<_Float16, float>(parts);
    case kFloat32: return reduce<float, float>(parts);
    case kFloat64: return reduce<double, double>(parts);
    default: return reduce<Bfloat16, float>(parts);
  }
}

// Copied first, since a rank may receive where another one, or itself, sends from.
void gather(const std::vector<Part>& parts, size_t bytes) {
  std::vector<unsigned char> all(bytes * parts.size());
  for (size_t rank = 0; rank < parts.size(); rank++)
    memcpy(all.data() + rank * bytes, at(parts[rank].send), bytes);
  for (const Part& part : parts) memcpy(at(part.receive), all.data(), all.size());
}
}  // namespace

size_t width_of(int type) {
  static const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return type >= 0 && type < 10 ? widths[type] : 0;
}

Result compute(const std::vector<Part>& parts) {
  const Part& first = parts[0];
  size_t bytes = first.count * width_of(first.type);
  for (const Part& part : parts) {
    if (part.kind != first.kind || part.count != first.count || part.type != first.type ||
        part.op != first.op || part.root != first.root)
      return fail(kLaunchFailed, "NCCL: the ranks disagree about a collective");
    bool sends = part.kind != Kind::kBroadcast || &part == &parts[(size_t)first.root];
    size_t received = part.kind == Kind::kGather ? bytes * parts.size() : bytes;
    if (sends)
      if (Result gone = memory_check(part.send, bytes, "NCCL: what is sent")) return gone;
    if (Result gone = memory_check(part.receive, received, "NCCL: what is received")) return gone;
  }
  if (first.kind == Kind::kReduce) reduce_any(parts);
  if (first.kind == Kind::kGather) gather(parts, bytes);
  if (first.kind == Kind::kBroadcast) {
    const void* root = at(parts[(size_t)first.root].send);
    for (const Part& part : parts)
      if (at(part.receive) != root) memcpy(at(part.receive), root, bytes);
  }
  return kSuccess;
}

}  // namespace emulator
