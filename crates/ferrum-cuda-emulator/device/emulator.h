// The device side of the emulated driver: what CUDA C++ and ptx.cuh give a kernel, in plain C++.
// A .cu file is compiled inside an unnamed namespace after this header, so nothing in it is shared
// between modules.
#pragma once
#include "emulator_abi.h"
#include "emulator_types.h"
#include "emulator_math.h"
#include "emulator_warp.h"
#include "emulator_ptx.h"

#include <new>
#include <tuple>
#include <type_traits>
#include <utility>

#define DEVICE inline
#define __device__
#define __host__
#define __global__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Static shared memory: one section of the module, which the driver poisons before each block.
#define __shared__ static __attribute__((section("ferrum_shared")))

#define threadIdx (emulator_thread->thread)
#define blockIdx (emulator_thread->block)
#define blockDim (emulator_thread->block_size)
#define gridDim (emulator_thread->grid_size)
constexpr int warpSize = 32;

#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator_dynamic_shared)

// Declares the kernel, registers it with the driver, and begins its definition. The second macro
// is there so that a name that is itself built by a macro is expanded first.
#define KERNEL(name, threads, parameters) FERRUM_EMULATED_KERNEL(name, threads, parameters)
#define KERNEL_RESIDENT(name, threads, blocks, parameters) KERNEL(name, threads, parameters)
#define FERRUM_EMULATED_KERNEL(name, threads, parameters)                             \
  void name parameters;                                                               \
  const emulator::Registration registration_of_##name(                                \
      #name, threads, emulator::Launcher<decltype(&name), &name>());                  \
  void name parameters

namespace emulator {

template <class Signature, Signature kernel>
struct Launcher;

template <class... Parameters, void (*kernel)(Parameters...)>
struct Launcher<void (*)(Parameters...), kernel> {
  using Packed = std::tuple<std::remove_cv_t<Parameters>...>;

  static constexpr unsigned count = sizeof...(Parameters);
  static_assert(count <= 64, "the mask of pointers has 64 bits");

  static uint64_t pointers() {
    uint64_t mask = 0;
    unsigned i = 0;
    ((mask |= uint64_t(std::is_pointer_v<Parameters>) << i++), ...);
    return mask;
  }
  template <size_t... I>
  static void pack_each(void* const* arguments, void* packed, std::index_sequence<I...>) {
    new (packed) Packed(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
  }
  static void pack(void* const* arguments, void* packed) {
    static_assert(std::is_trivially_destructible_v<Packed>, "parameters are plain values");
    pack_each(arguments, packed, std::index_sequence_for<Parameters...>());
  }
  static void run(const void* packed) { std::apply(kernel, *static_cast<const Packed*>(packed)); }
};

struct Registration {
  KernelEntry entry;
  template <class L>
  Registration(const char* name, unsigned threads, L)
      : entry{name, threads, L::count, L::pointers(), sizeof(typename L::Packed), L::pack, L::run} {
    emulator_register_kernel(&entry);
  }
};

}  // namespace emulator

// The bounds of the section, from the linker; absent if no kernel has static shared memory.
extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __start_ferrum_shared[];
extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __stop_ferrum_shared[];
__attribute__((constructor)) static void register_shared_memory() {
  emulator_register_shared(__start_ferrum_shared, __stop_ferrum_shared);
}
