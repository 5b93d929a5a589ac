// Barriers and warp collectives.
#pragma once
#include "emulator_math.h"

namespace emulator {

template <class T>
inline T given_by(const Slot* slots, unsigned lane) {
  T value;
  memcpy(&value, slots[lane].bytes, sizeof value);
  return value;
}

// What `source` gave to a shuffle; a lane outside the mask gave nothing.
template <class T>
inline T shuffled(const Slot* slots, unsigned mask, unsigned source, const char* what, int line) {
  if (!(mask >> source & 1)) emulator_fail(what, line);
  return given_by<T>(slots, source);
}

}  // namespace emulator

// The default argument is the line of the caller.
inline void __syncthreads(int line = __builtin_LINE()) {
  emulator_barrier(0, "__syncthreads", line);
}
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
  return (int)emulator_barrier(predicate, "__syncthreads_count", line).nonzero;
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return emulator_barrier(predicate, "__syncthreads_or", line).nonzero != 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  emulator::BarrierCount count = emulator_barrier(predicate, "__syncthreads_and", line);
  return count.nonzero == count.threads;
}
inline void __syncwarp(unsigned mask = ~0u, int line = __builtin_LINE()) {
  emulator_collective(mask, nullptr, 0, "__syncwarp", line, nullptr);
}

template <class T>
inline T __shfl_sync(unsigned mask, T v, int source, int width = 32, int line = __builtin_LINE()) {
  const emulator::Slot* slots =
      emulator_collective(mask, &v, sizeof v, "__shfl_sync", line, nullptr);
  unsigned base = emulator_thread->lane & ~(unsigned)(width - 1);
  return emulator::shuffled<T>(slots, mask, base | ((unsigned)source & (unsigned)(width - 1)),
                               "__shfl_sync reads a lane outside its mask", line);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32,
                         int line = __builtin_LINE()) {
  const emulator::Slot* slots =
      emulator_collective(mask, &v, sizeof v, "__shfl_xor_sync", line, nullptr);
  unsigned lane = emulator_thread->lane, source = lane ^ (unsigned)bits;
  if (source > (lane | (unsigned)(width - 1))) return v;
  return emulator::shuffled<T>(slots, mask, source,
                               "__shfl_xor_sync reads a lane outside its mask", line);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32,
                          int line = __builtin_LINE()) {
  const emulator::Slot* slots =
      emulator_collective(mask, &v, sizeof v, "__shfl_down_sync", line, nullptr);
  unsigned lane = emulator_thread->lane, source = lane + by;
  if (source > (lane | (unsigned)(width - 1))) return v;
  return emulator::shuffled<T>(slots, mask, source,
                               "__shfl_down_sync reads a lane outside its mask", line);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32,
                        int line = __builtin_LINE()) {
  const emulator::Slot* slots =
      emulator_collective(mask, &v, sizeof v, "__shfl_up_sync", line, nullptr);
  unsigned lane = emulator_thread->lane;
  if ((lane & (unsigned)(width - 1)) < by) return v;
  return emulator::shuffled<T>(slots, mask, lane - by,
                               "__shfl_up_sync reads a lane outside its mask", line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const emulator::Slot* slots =
      emulator_collective(mask, &predicate, sizeof predicate, "__ballot_sync", line, nullptr);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) ballot |= (unsigned)(emulator::given_by<int>(slots, lane) != 0) << lane;
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return __ballot_sync(mask, predicate, line) == mask;
}
// The lanes that gave the same value as this one.
template <class T>
inline unsigned __match_any_sync(unsigned mask, T v, int line = __builtin_LINE()) {
  const emulator::Slot* slots =
      emulator_collective(mask, &v, sizeof v, "__match_any_sync", line, nullptr);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) same |= (unsigned)(emulator::given_by<T>(slots, lane) == v) << lane;
  return same;
}

#define FERRUM_REDUCE(name, expression)                                                \
  template <class T>                                                                   \
  inline T name(unsigned mask, T v, int line = __builtin_LINE()) {                     \
    const emulator::Slot* slots = emulator_collective(mask, &v, sizeof v, #name, line, nullptr); \
    bool first = true;                                                                 \
    T result = v;                                                                      \
    for (unsigned lane = 0; lane < 32; lane++) {                                       \
      if (!(mask >> lane & 1)) continue;                                               \
      T other = emulator::given_by<T>(slots, lane);                                    \
      result = first ? other : (T)(expression);                                        \
      first = false;                                                                   \
    }                                                                                  \
    return result;                                                                     \
  }
FERRUM_REDUCE(__reduce_add_sync, result + other)
FERRUM_REDUCE(__reduce_max_sync, result < other ? other : result)
FERRUM_REDUCE(__reduce_min_sync, other < result ? other : result)
FERRUM_REDUCE(__reduce_or_sync, result | other)
FERRUM_REDUCE(__reduce_and_sync, result & other)
#undef FERRUM_REDUCE

[[noreturn]] inline void __trap(int line = __builtin_LINE()) { emulator_fail("__trap", line); }
