// cuBLASLt, as far as dense products need it: `D = alpha · Aᵀ·B + beta · D (+ bias)` of 16-bit or E4M3
// numbers, added up in f32, with the factors on the host. A product is work of its stream like any
// other. Whatever else is asked for is refused, and so are operands that an algorithm was not chosen
// for. There is no algorithm for results of one row, as a library has gaps.
//
// Of E4M3 numbers as NVIDIA's documentation has it ("cublasLtMatmul", "Tensor Core Usage"): from compute
// capability 8.9 on, columns and their distances in multiples of 16 bytes, and a bias of other numbers than
// f32, which is not emulated.
#include <cmath>
#include <cstring>
#include <map>

#include "driver.h"

namespace emulator {

namespace {
enum BlasResult {  // cublasStatus_t
  kBlasSuccess = 0,
  kBlasInvalidValue = 7,
  kBlasExecutionFailed = 13,
  kBlasNotSupported = 15,
};
enum Number { kF32 = 0, kF16 = 2, kBf16 = 14, kE4m3 = 28 };  // cudaDataType_t
enum { kSumsInF32 = 68, kTransposed = 1, kOnHost = 0, kPlain = 1, kBias = 4 };

struct Library {
  Device* device;
};
struct Descriptor {
  int compute, scale_type;
  std::map<int, uint64_t> attributes;

  uint64_t attribute(int which, uint64_t otherwise) const {
    auto found = attributes.find(which);
    return found == attributes.end() ? otherwise : found->second;
  }
};
enum { kPointerMode = 2, kTransA = 3, kTransB = 4, kEpilogue = 7, kBiasPointer = 8 };
// Column after column, each `stride` numbers behind the one before.
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t stride;

  size_t width() const { return type == kF32 ? 4 : type == kE4m3 ? 1 : 2; }
  size_t bytes() const { return ((columns - 1) * (uint64_t)stride + rows) * width(); }
  bool operator==(const Layout& other) const {
    return type == other.type && rows == other.rows && columns == other.columns &&
           stride == other.stride;
  }
};
struct Preference {
  std::map<int, uint64_t> limits;
};
enum { kMostWorkspace = 1, kAlignmentA = 5 };

// What an algorithm was chosen for; it fills the 64 bytes that callers keep.
struct Algorithm {
  uint64_t m, n, k;
  uint32_t epilogue, type;
  uint64_t workspace;
  uint32_t alignment[4];
  uint64_t mark;
};
static_assert(sizeof(Algorithm) == 64);
constexpr uint64_t kMark = 0x466572726c74;
constexpr uint64_t kWorkspace = 4096;

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

template <class T>
Handles<T>& handles() {
  static auto* all = new Handles<T>;
  return *all;
}

BlasResult refuse(BlasResult result, const char* text) {
  fprintf(stderr, "[emulated cuBLASLt] %s\n", text);
  return result;
}

// The parts of a product, found and fitting together.
struct Product {
  const Descriptor* operation;
  const Layout *a, *b, *d;
};

// Whether tensor cores take these operands of eight bits.
bool fits_tensor_cores(const Device* device, const Product& p) {
  auto aligned = [](const Layout* layout) {
    return layout->rows * layout->width() % 16 == 0 && layout->stride * layout->width() % 16 == 0;
  };
  return capability_of(device->ordinal) >= 89 && aligned(p.a) && aligned(p.b) && aligned(p.d) &&
         (int)p.operation->attribute(kEpilogue, kPlain) == kPlain;
}

BlasResult find(Product* p, const Device* device, void* operation, void* a, void* b, void* c,
                void* d) {
  const Layout* added = handles<Layout>().find(c);
  *p = {handles<Descriptor>().find(operation), handles<Layout>().find(a), handles<Layout>().find(b),
        handles<Layout>().find(d)};
  if (!p->operation || !p->a || !p->b || !p->d || !added)
    return refuse(kBlasInvalidValue, "not a descriptor, or one that was destroyed");
  const Descriptor& o = *p->operation;
  bool known = o.compute == kSumsInF32 && o.scale_type == kF32 &&
               (p->a->type == kF16 || p->a->type == kBf16 || p->a->type == kE4m3) &&
               p->b->type == p->a->type &&
               p->d->type == kF32 && *added == *p->d &&
               (int)o.attribute(kTransA, 0) == kTransposed && o.attribute(kTransB, 0) == 0 &&
               o.attribute(kPointerMode, 0) == kOnHost &&
               (o.attribute(kEpilogue, kPlain) == kPlain || o.attribute(kEpilogue, 0) == kBias);
  for (auto [attribute, value] : o.attributes)
    known = known && (attribute == kPointerMode || attribute == kTransA || attribute == kTransB ||
                      attribute == kEpilogue || attribute == kBiasPointer);
  if (!known) return refuse(kBlasNotSupported, "a product that is not emulated");
  bool fits = p->a->rows == p->b->rows && p->d->rows == p->a->columns &&
              p->d->columns == p->b->columns && p->a->stride >= (int64_t)p->a->rows &&
              p->b->stride >= (int64_t)p->b->rows && p->d->stride >= (int64_t)p->d->rows &&
              p->a->rows && p->a->columns && p->b->columns;
  if (!fits) return refuse(kBlasInvalidValue, "layouts that do not fit together");
  if (p->a->type == kE4m3 && !fits_tensor_cores(device, *p))
    return refuse(kBlasNotSupported, "numbers of eight bits that no kernel multiplies");
  return kBlasSuccess;
}

// Number `i` from an address on.
float number(int type, uint64_t address, uint64_t i) {
  if (type == kE4m3) {
    uint8_t code = reinterpret_cast<const uint8_t*>(address)[i];
    int exponent = code >> 3 & 15, mantissa = code & 7;
    if ((code & 0x7f) == 0x7f) return NAN;
    float size = exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf(8.0f + (float)mantissa, exponent - 10);
    return code & 0x80 ? -size : size;
  }
  uint16_t bits = reinterpret_cast<const uint16_t*>(address)[i];
  if (type == kBf16) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
  }
  _Float16 half;
  memcpy(&half, &bits, sizeof half);
  return (float)half;
}

// What a product works on when its stream comes to it.
struct Work {
  Layout a, b, d;
  uint64_t a_at, b_at, d_at, bias;
  float alpha, beta;
};

Result compute(const Work& w) {
  auto floats = [](uint64_t address) { return reinterpret_cast<float*>(address); };
  Result checked[] = {memory_check(w.a_at, w.a.bytes(), "cuBLASLt: A"),
                      memory_check(w.b_at, w.b.bytes(), "cuBLASLt: B"),
                      memory_check(w.d_at, w.d.bytes(), "cuBLASLt: D"),
                      w.bias ? memory_check(w.bias, 4 * w.d.rows, "cuBLASLt: bias") : kSuccess};
  for (Result result : checked)
    if (result != kSuccess) return result;
  std::vector<float> weights(w.a.rows * w.a.columns);
  for (uint64_t row = 0; row < w.a.columns; row++)
    for (uint64_t i = 0; i < w.a.rows; i++)
      weights[row * w.a.rows + i] = number(w.a.type, w.a_at, row * (uint64_t)w.a.stride + i);
  std::vector<float> input(w.b.rows);
  for (uint64_t column = 0; column < w.b.columns; column++) {
    for (uint64_t i = 0; i < w.b.rows; i++)
      input[i] = number(w.b.type, w.b_at, column * (uint64_t)w.b.stride + i);
    for (uint64_t row = 0; row < w.d.rows; row++) {
      float sum = 0;
      for (uint64_t i = 0; i < w.b.rows; i++) sum += weights[row * w.a.rows + i] * input[i];
      float* to = floats(w.d_at) + column * w.d.stride + row;
      // What is there is not read where it counts for nothing: it may be no number.
      float result = w.alpha * sum + (w.beta != 0 ? w.beta * *to : 0);
      *to = result + (w.bias ? floats(w.bias)[row] : 0);
    }
  }
  return kSuccess;
}
}  // namespace

}  // namespace emulator

using namespace emulator;

EXPORT size_t cublasLtGetVersion() { return 130000; }

EXPORT BlasResult cublasLtCreate(void** handle) {
  Lock lock(driver().lock);
  if (!current_device()) return refuse(kBlasExecutionFailed, "no context is current");
  *handle = handles<Library>().add(std::make_unique<Library>(Library{current_device()}));
  return kBlasSuccess;
}

#define DESTROY(name, type)                                                      \
  EXPORT BlasResult name(void* handle) {                                         \
    Lock lock(driver().lock);                                                    \
    type* found = handles<type>().find(handle);                                  \
    if (!found) return refuse(kBlasInvalidValue, #name ": no such object");      \
    handles<type>().remove(found);                                               \
    return kBlasSuccess;                                                         \
  }
DESTROY(cublasLtDestroy, Library)
DESTROY(cublasLtMatmulDescDestroy, Descriptor)
DESTROY(cublasLtMatrixLayoutDestroy, Layout)
DESTROY(cublasLtMatmulPreferenceDestroy, Preference)

EXPORT BlasResult cublasLtMatmulDescCreate(void** handle, int compute, int scale_type) {
  Lock lock(driver().lock);
  auto made = std::make_unique<Descriptor>(Descriptor{compute, scale_type, {}});
  *handle = handles<Descriptor>().add(std::move(made));
  return kBlasSuccess;
}
EXPORT BlasResult cublasLtMatrixLayoutCreate(void** handle, int type, uint64_t rows,
                                             uint64_t columns, int64_t stride) {
  Lock lock(driver().lock);
  auto made = std::make_unique<Layout>(Layout{type, rows, columns, stride});
  *handle = handles<Layout>().add(std::move(made));
  return kBlasSuccess;
}
EXPORT BlasResult cublasLtMatmulPreferenceCreate(void** handle) {
  Lock lock(driver().lock);
  *handle = handles<Preference>().add(std::make_unique<Preference>());
  return kBlasSuccess;
}

static bool take(std::map<int, uint64_t>& values, int which, const void* value, size_t bytes) {
  uint64_t taken = 0;
  if (bytes > sizeof taken) return false;
  memcpy(&taken, value, bytes);
  values[which] = taken;
  return true;
}
EXPORT BlasResult cublasLtMatmulDescSetAttribute(void* handle, int which, const void* value,
                                                 size_t bytes) {
  Lock lock(driver().lock);
  Descriptor* found = handles<Descriptor>().find(handle);
  bool taken = found && take(found->attributes, which, value, bytes);
  return taken ? kBlasSuccess : refuse(kBlasInvalidValue, "an attribute of no descriptor");
}
EXPORT BlasResult cublasLtMatmulPreferenceSetAttribute(void* handle, int which, const void* value,
                                                       size_t bytes) {
  Lock lock(driver().lock);
  Preference* found = handles<Preference>().find(handle);
  bool taken = found && take(found->limits, which, value, bytes);
  return taken ? kBlasSuccess : refuse(kBlasInvalidValue, "an attribute of no preference");
}

EXPORT BlasResult cublasLtMatmulAlgoGetHeuristic(void* library, void* operation, void* a, void* b,
                                                 void* c, void* d, void* preference, int wanted,
                                                 HeuristicResult* results, int* count) {
  Lock lock(driver().lock);
  Preference* limits = handles<Preference>().find(preference);
  Product p;
  Library* known = handles<Library>().find(library);
  if (!known || !limits || wanted < 1)
    return refuse(kBlasInvalidValue, "not a library, or no preference");
  *count = 0;
  if (BlasResult refused = find(&p, known->device, operation, a, b, c, d)) return refused;
  if (p.d->rows == 1) return kBlasSuccess;
  Algorithm found = {p.d->rows, p.d->columns, p.a->rows};
  found.epilogue = (uint32_t)p.operation->attribute(kEpilogue, kPlain), found.type = p.a->type;
  found.workspace = std::min(kWorkspace, limits->limits[kMostWorkspace]), found.mark = kMark;
  for (int i = 0; i < 4; i++) {
    auto limit = limits->limits.find(kAlignmentA + i);
    found.alignment[i] = limit == limits->limits.end() ? 256 : (uint32_t)limit->second;
  }
  *results = {found, found.workspace, kBlasSuccess, 1.0f, {}};
  *count = 1;
  return kBlasSuccess;
}

EXPORT BlasResult cublasLtMatmul(void* library, void* operation, const void* alpha, const void* a,
                                 void* a_layout, const void* b, void* b_layout, const void* beta,
                                 const void* c, void* c_layout, void* d, void* d_layout,
                                 const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                                 void* stream_handle) {
  Lock lock(driver().lock);
  Library* known = handles<Library>().find(library);
  Stream* stream = find_stream(stream_handle);
  if (!known || !stream || stream->device != known->device || !algorithm)
    return refuse(kBlasInvalidValue, "the library, the stream and the algorithm must be of a device");
  Product p;
  if (BlasResult refused = find(&p, known->device, operation, a_layout, b_layout, c_layout, d_layout))
    return refused;
  const Algorithm& chosen = *algorithm;
  bool same = chosen.mark == kMark && chosen.m == p.d->rows && chosen.n == p.d->columns &&
              chosen.k == p.a->rows && chosen.type == (uint32_t)p.a->type &&
              chosen.epilogue == p.operation->attribute(kEpilogue, kPlain);
  if (!same) return refuse(kBlasInvalidValue, "the algorithm was chosen for another product");
  const void* operands[4] = {a, b, c, d};
  for (int i = 0; i < 4; i++)
    if ((uint64_t)operands[i] % chosen.alignment[i])
      return refuse(kBlasInvalidValue, "an operand is less aligned than the algorithm asks for");
  if (c != d) return refuse(kBlasNotSupported, "results beside what is added to them");
  if (workspace_bytes < chosen.workspace ||
      (chosen.workspace && memory_check((uint64_t)workspace, chosen.workspace, "cuBLASLt: workspace")))
    return refuse(kBlasInvalidValue, "too little workspace");
  bool biased = chosen.epilogue == kBias;
  if (memory_in_arena((uint64_t)alpha) || memory_in_arena((uint64_t)beta))
    return refuse(kBlasInvalidValue, "factors on the device");
  Work work = {*p.a, *p.b, *p.d, (uint64_t)a, (uint64_t)b, (uint64_t)d,
               biased ? p.operation->attribute(kBiasPointer, 0) : 0,
               *static_cast<const float*>(alpha), *static_cast<const float*>(beta)};
  if (biased && !work.bias) return refuse(kBlasInvalidValue, "no bias");
  std::vector<uint64_t> pointers = {work.a_at, work.b_at, work.d_at, (uint64_t)workspace};
  if (biased) pointers.push_back(work.bias);
  auto run = [work]() -> Result { return compute(work); };
  return submit(stream, {run, pointers, "a product of cuBLASLt"}) ? kBlasExecutionFailed
                                                                  : kBlasSuccess;
}
