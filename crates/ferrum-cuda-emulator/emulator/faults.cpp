// What goes wrong inside a kernel: signals of the thread that runs it, and the checks that
// g++ -fsanitize compiles into modules.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "scheduler.h"

namespace emulator {

namespace {
constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
struct sigaction previous[NSIG];
// The thread that runs a kernel; faults of all others go where they went before.
std::atomic<bool> running{false};
pthread_t runner;

int fault_signal;
uint64_t fault_address;

void on_signal(int number, siginfo_t* info, void* context) {
  if (running && pthread_equal(pthread_self(), runner)) {
    fault_signal = number;
    fault_address = reinterpret_cast<uint64_t>(info->si_addr);
    auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    kernel().fault_pc = reinterpret_cast<void*>(registers[REG_RIP] + 1);
    siglongjmp(kernel().fault_jump, 1);
  }
  const struct sigaction& before = previous[number];
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
    sigaction(number, &before, nullptr);  // the instruction faults again, with the default result
  } else {
    before.sa_handler(number);
  }
}

void install() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (int number : kSignals) sigaction(number, &action, &previous[number]);
}

// A fault may be the overflow of a fiber's stack, so the handler needs a stack of its own. Rust
// gives its threads one; this is for the others.
void need_signal_stack() {
  stack_t now;
  sigaltstack(nullptr, &now);
  if (!(now.ss_flags & SS_DISABLE)) return;
  static thread_local unsigned char bytes[32 << 10];
  stack_t own = {};
  own.ss_sp = bytes;
  own.ss_size = sizeof bytes;
  sigaltstack(&own, nullptr);
}
}  // namespace

void faults_begin() {
  static bool once = (install(), true);
  (void)once;
  need_signal_stack();
  runner = pthread_self();
  running = true;
}

void faults_end() { running = false; }

Result fault_result() {
  return fault_signal == SIGSEGV || fault_signal == SIGBUS ? kIllegalAddress : kLaunchFailed;
}

std::string fault_message() {
  if (fault_signal == SIGFPE) return "integer division by zero or out of range";
  if (fault_signal == SIGILL || fault_signal == SIGTRAP) return "the kernel trapped";
  const unsigned char* at = reinterpret_cast<unsigned char*>(fault_address);
  const Kernel& k = kernel();
  if (at < k.current->stack && at >= k.current->stack - 4096)
    return "an emulated thread's stack overflowed";
  if (at >= k.dynamic_limit && at < k.dynamic_limit + 4096)
    return "access past the end of dynamic shared memory";
  return "illegal address: " + memory_describe(fault_address);
}

// Asks addr2line, which comes with g++. An instruction inside the emulator's own headers belongs to
// the first line outside of them that was inlined around it.
std::string line_of(void* instruction) {
  Dl_info info;
  if (!instruction || !dladdr(instruction, &info) || !info.dli_fname) return "";
  const Module* module = kernel().launch->function->module;
  std::string path = "/proc/self/fd/" + std::to_string(module->file);
  if (path != info.dli_fname) return "";
  uintptr_t offset = (uintptr_t)instruction - (uintptr_t)info.dli_fbase - 1;
  char command[160], line[512];
  snprintf(command, sizeof command, "addr2line -i -e /proc/%d/fd/%d %#lx 2>/dev/null", (int)getpid(),
           module->file, (unsigned long)offset);
  FILE* pipe = popen(command, "r");
  std::string found;
  while (pipe && fgets(line, sizeof line, pipe)) {
    const char* slash = strrchr(line, '/');
    std::string place = slash ? slash + 1 : line;
    if (found.empty() && place.rfind("emulator", 0) != 0 && place[0] != '?')
      found = " at " + place.substr(0, place.find_first_of(" \n"));
  }
  if (pipe) pclose(pipe);
  return found;
}

// --- what -fsanitize calls; the layouts are those of libubsan's

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
struct TypeMismatch {
  SourceLocation where;
  void* type;
  unsigned char log_alignment, kind;
};
struct Overflow {
  SourceLocation where;
};

static std::string at_line(const SourceLocation& where) {
  const char* slash = strrchr(where.file, '/');
  return std::string(" at ") + (slash ? slash + 1 : where.file) + ":" + std::to_string(where.line);
}

}  // namespace emulator

using namespace emulator;

EXPORT void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* data, uint64_t pointer) {
  char address[32];
  snprintf(address, sizeof address, "%#lx", (unsigned long)pointer);
  if (!pointer) fail_thread(kIllegalAddress, "null pointer" + at_line(data->where));
  fail_thread(kMisalignedAddress,
              std::string("misaligned access to ") + address + ", which needs " +
                  std::to_string(1u << data->log_alignment) + " bytes" + at_line(data->where));
}
EXPORT void __ubsan_handle_out_of_bounds_abort(Overflow* data, uint64_t index) {
  fail_thread(kIllegalAddress, "index " + std::to_string((int64_t)index) +
                                   " is outside of its array" + at_line(data->where));
}
EXPORT void __ubsan_handle_shift_out_of_bounds_abort(Overflow* data, uint64_t, uint64_t by) {
  fail_thread(kLaunchFailed, "shift by " + std::to_string((int64_t)by) + at_line(data->where));
}
EXPORT void __ubsan_handle_divrem_overflow_abort(Overflow* data, uint64_t, uint64_t) {
  fail_thread(kLaunchFailed, "integer division by zero" + at_line(data->where));
}
