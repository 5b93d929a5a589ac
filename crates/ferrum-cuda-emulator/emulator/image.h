// A module image: what the emulated NVRTC gives as PTX or cubin and the emulated driver loads.
#pragma once
#include <cstdint>

namespace emulator {

constexpr char kImageMagic[16] = "ferrum-emulated";

struct ImageHeader {
  char magic[16];
  uint64_t bytes;       // of the shared library that follows
  uint32_t capability;  // 80 for sm_80
  uint32_t reserved;
};

}  // namespace emulator
