// NVRTC's place: g++ compiles the .cu text against emulator.h into a shared library, which is kept
// on disk under the hash of everything that went into it.
#include <fcntl.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "image.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
extern char** environ;

namespace {

enum Result {  // nvrtcResult
  kSuccess = 0,
  kOutOfMemory = 1,
  kInvalidInput = 3,
  kInvalidProgram = 4,
  kInvalidOption = 5,
  kCompilation = 6,
  kInternalError = 11,
};

struct Program {
  std::string source, name;
  std::vector<std::pair<std::string, std::string>> headers;  // name, text
  std::string log, image;
  bool real_architecture = false;
};

// Set once by the loader, before the first program.
std::string device_headers, cache, compiler = "g++";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}
void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}
bool exists(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

// FNV-1a twice from different starts: 128 bits in all, of text that nobody forges.
class Hash {
 public:
  void add(const std::string& text) {
    for (unsigned char c : text) step(c);
    step(0x100);  // no text is the beginning of another
  }
  std::string hex() const {
    char text[40];
    snprintf(text, sizeof text, "%016llx%016llx", a_, b_);
    return text;
  }

 private:
  void step(unsigned value) {
    a_ = (a_ ^ value) * 0x100000001b3ull;
    b_ = (b_ ^ value) * 0x100000001b3ull;
    b_ ^= b_ >> 29;
  }
  unsigned long long a_ = 0xcbf29ce484222325ull, b_ = 0x84222325cbf29ce4ull;
};

// --- options

struct Options {
  std::vector<std::string> defines;
  int capability = 80;
  bool real = false;
  std::string unknown;
};

bool starts(const std::string& text, const char* with) { return text.rfind(with, 0) == 0; }

void read_architecture(const std::string& value, Options& options) {
  size_t digits = value.find_first_of("0123456789");
  options.real = starts(value, "sm_");
  if (digits == std::string::npos || !(options.real || starts(value, "compute_")))
    options.unknown = value;
  else
    options.capability = atoi(value.c_str() + digits);
}

// Options that change nothing here.
bool is_harmless(const std::string& option) {
  static const char* const known[] = {"std", "use_fast_math", "ftz", "fmad", "prec-div", "prec-sqrt",
                                      "maxrregcount", "lineinfo", "generate-line-info",
                                      "ptxas-options", "Xptxas", "default-device", "dopt", "restrict",
                                      "extra-device-vectorization", "disable-warnings", "w",
                                      "diag-suppress", "minimal", "split-compile",
                                      "relocatable-device-code", "rdc", "device-debug", "G"};
  size_t dashes = option.find_first_not_of('-');
  if (dashes == 0 || dashes == std::string::npos) return false;
  std::string name = option.substr(dashes, option.find('=') - dashes);
  for (const char* one : known)
    if (name == one) return true;
  return false;
}

Options read_options(int count, const char* const* given) {
  Options options;
  for (int i = 0; i < count; i++) {
    std::string option = given[i];
    size_t equals = option.find('=');
    std::string name = option.substr(0, equals);
    bool has_value = equals != std::string::npos;
    if (!has_value && (name == "--gpu-architecture" || name == "-arch" || name == "-D") &&
        i + 1 < count) {
      option = given[++i];
      equals = std::string::npos;
      has_value = true;
    }
    std::string value = equals == std::string::npos ? option : option.substr(equals + 1);
    if (has_value && (name == "--gpu-architecture" || name == "-arch"))
      read_architecture(value, options);
    else if (has_value && name == "--define-macro")
      options.defines.push_back("-D" + value);
    else if (name == "-D")
      options.defines.push_back("-D" + value);
    else if (starts(option, "-D"))
      options.defines.push_back(option);
    else if (!is_harmless(option))
      options.unknown = option;
  }
  return options;
}

// --- the compiler

// Device code is fused as NVRTC fuses it where this processor can; no test may depend on it.
std::vector<std::string> flags_of_this_machine() {
  std::vector<std::string> flags = {
      "-std=c++17", "-O2", "-g1", "-w", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique",
      "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-fno-math-errno", "-fcf-protection=none",
      "-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero",
      "-fno-sanitize-recover=all", "-DFERRUM_EMULATOR"};
  if (getenv("FERRUM_EMULATOR_RACES"))
    flags.insert(flags.end(), {"-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    flags.insert(flags.end(), {"-mavx2", "-mfma", "-mf16c"});
  return flags;
}

// Runs a program with its output into a file. True if it ended well.
bool run(const std::vector<std::string>& command, const std::string& output) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child;
  int failed = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed) return false;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// One compilation of the same text at a time, over all threads and processes.
class FileLock {
 public:
  explicit FileLock(const std::string& path)
      : file_(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)) {
    if (file_ >= 0) flock(file_, LOCK_EX);
  }
  ~FileLock() {
    if (file_ >= 0) close(file_);
  }

 private:
  int file_;
};

std::string base_name(const std::string& name) {
  std::string base = name.substr(name.find_last_of('/') + 1);
  return base.empty() ? "kernel.cu" : base;
}

// Compiles in a folder of its own and moves the library to its place. False with a log if it fails.
bool compile(Program& program, const std::vector<std::string>& flags, const std::string& library) {
  std::string folder = library + "." + std::to_string(getpid());
  mkdir(folder.c_str(), 0755);
  std::string text = "#include \"emulator.h\"\nnamespace {\n#line 1 \"" + base_name(program.name) +
                     "\"\n" + program.source + "\n}\n";
  write_file(folder + "/program.cpp", text);
  for (const auto& [name, header] : program.headers) write_file(folder + "/" + base_name(name), header);
  std::vector<std::string> to_object = {compiler};
  to_object.insert(to_object.end(), flags.begin(), flags.end());
  to_object.insert(to_object.end(), {"-I", folder, "-I", device_headers, "-c", "-o",
                                     folder + "/program.o", folder + "/program.cpp"});
  // Linked without -fsanitize: the driver has the functions that report.
  std::vector<std::string> to_library = {compiler, "-shared", "-o", folder + "/program.so",
                                         folder + "/program.o", "-lm"};
  bool well = run(to_object, folder + "/log") && run(to_library, folder + "/log");
  program.log = read_file(folder + "/log");
  if (well) well = rename((folder + "/program.so").c_str(), library.c_str()) == 0;
  if (!getenv("FERRUM_EMULATOR_KEEP")) run({"rm", "-rf", folder}, "/dev/null");
  return well;
}

std::string image_of(const std::string& library, int capability) {
  std::string bytes = read_file(library);
  emulator::ImageHeader header = {};
  memcpy(header.magic, emulator::kImageMagic, sizeof header.magic);
  header.bytes = bytes.size();
  header.capability = (uint32_t)capability;
  return std::string(reinterpret_cast<char*>(&header), sizeof header) + bytes;
}

Program* find(void* program) { return static_cast<Program*>(program); }

}  // namespace

EXPORT void ferrum_emulator_configure(const char* headers, const char* cache_folder) {
  device_headers = headers;
  cache = cache_folder;
}

// A version that no real NVRTC has, so that caches keyed by it keep apart.
EXPORT Result nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 99;
  return kSuccess;
}

static const int kArchitectures[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};
EXPORT Result nvrtcGetNumSupportedArchs(int* count) {
  *count = (int)std::size(kArchitectures);
  return kSuccess;
}
EXPORT Result nvrtcGetSupportedArchs(int* architectures) {
  memcpy(architectures, kArchitectures, sizeof kArchitectures);
  return kSuccess;
}

EXPORT const char* nvrtcGetErrorString(Result result) {
  switch (result) {
    case kSuccess: return "NVRTC_SUCCESS";
    case kOutOfMemory: return "NVRTC_ERROR_OUT_OF_MEMORY";
    case kInvalidInput: return "NVRTC_ERROR_INVALID_INPUT";
    case kInvalidProgram: return "NVRTC_ERROR_INVALID_PROGRAM";
    case kInvalidOption: return "NVRTC_ERROR_INVALID_OPTION";
    case kCompilation: return "NVRTC_ERROR_COMPILATION";
    case kInternalError: return "NVRTC_ERROR_INTERNAL_ERROR";
  }
  return "NVRTC_ERROR unknown";
}

EXPORT Result nvrtcCreateProgram(void** program, const char* source, const char* name, int count,
                                 const char* const* headers, const char* const* names) {
  if (!program || !source || count < 0) return kInvalidInput;
  auto made = std::make_unique<Program>();
  made->source = source;
  made->name = name ? name : "default_program";
  for (int i = 0; i < count; i++) made->headers.emplace_back(names[i], headers[i]);
  *program = made.release();
  return kSuccess;
}

EXPORT Result nvrtcDestroyProgram(void** program) {
  if (!program || !*program) return kInvalidProgram;
  delete find(*program);
  *program = nullptr;
  return kSuccess;
}

EXPORT Result nvrtcCompileProgram(void* handle, int count, const char* const* given) {
  if (!handle) return kInvalidProgram;
  Program& program = *find(handle);
  Options options = read_options(count, given);
  if (!options.unknown.empty()) {
    program.log = "the emulated NVRTC does not know the option " + options.unknown;
    return kInvalidOption;
  }
  std::vector<std::string> flags = flags_of_this_machine();
  flags.insert(flags.end(), options.defines.begin(), options.defines.end());
  Hash hash;
  hash.add(program.name);
  hash.add(program.source);
  for (const auto& [name, text] : program.headers) hash.add(name), hash.add(text);
  for (const std::string& flag : flags) hash.add(flag);
  hash.add(device_headers);  // its path holds the hash of the emulator's own sources
  std::string library = cache + "/" + hash.hex() + ".so";
  if (!exists(library)) {
    FileLock lock(library + ".lock");
    if (!exists(library) && !compile(program, flags, library)) return kCompilation;
  }
  program.image = image_of(library, options.capability);
  program.real_architecture = options.real;
  return kSuccess;
}

EXPORT Result nvrtcGetCUBINSize(void* program, size_t* bytes) {
  if (!program) return kInvalidProgram;
  *bytes = find(program)->real_architecture ? find(program)->image.size() : 0;
  return kSuccess;
}
EXPORT Result nvrtcGetCUBIN(void* program, char* image) {
  if (!program || !find(program)->real_architecture) return kInvalidProgram;
  memcpy(image, find(program)->image.data(), find(program)->image.size());
  return kSuccess;
}
EXPORT Result nvrtcGetPTXSize(void* program, size_t* bytes) {
  if (!program) return kInvalidProgram;
  *bytes = find(program)->image.size();
  return kSuccess;
}
EXPORT Result nvrtcGetPTX(void* program, char* image) {
  if (!program) return kInvalidProgram;
  memcpy(image, find(program)->image.data(), find(program)->image.size());
  return kSuccess;
}
EXPORT Result nvrtcGetProgramLogSize(void* program, size_t* bytes) {
  if (!program) return kInvalidProgram;
  *bytes = find(program)->log.size() + 1;
  return kSuccess;
}
EXPORT Result nvrtcGetProgramLog(void* program, char* log) {
  if (!program) return kInvalidProgram;
  memcpy(log, find(program)->log.c_str(), find(program)->log.size() + 1);
  return kSuccess;
}
