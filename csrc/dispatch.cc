// The exported functions: each hands its tasks to the variant for the best instruction set of this machine.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "longstate.h"

typedef int64_t (*count_fn)();
typedef int64_t (*tiles_fn)(int64_t, int64_t);
typedef void (*selective_fn)(const SelectiveScan*, int64_t, int64_t);
typedef int64_t (*border_fn)(int32_t);
typedef int64_t (*lti_tasks_fn)(const LTIScan*);
typedef void (*lti_fn)(const LTIScan*, int64_t, int64_t);
typedef void (*lti_factors_fn)(const LTIFactors*, int64_t, int64_t);
typedef void (*gelu_map_fn)(const GELUMap*, int64_t, int64_t);
typedef void (*dropout_fn)(const Dropout*, int64_t, int64_t);
typedef void (*lti_step_fn)(const LTIStep*, int64_t, int64_t);
typedef void (*linear_fn)(const LinearScan*, int64_t, int64_t);
typedef void (*varying_fn)(const VaryingScan*, int64_t, int64_t);
typedef void (*lti_stack_fn)(const LTIStack*, float* const*, int64_t, int64_t);
typedef void (*linear_step_fn)(const LinearStep*, int64_t, int64_t);
typedef void (*mamba_step_fn)(const MambaStep*, int32_t, int64_t, int64_t);
typedef void (*mamba2_step_fn)(const Mamba2Step*, int32_t, int64_t, int64_t);
typedef void (*conv1d_fn)(const CausalConv1d*, int64_t, int64_t);
typedef void (*ssd_fn)(const SSD*, int64_t, int64_t);

#define DECLARE(isa)                                                                    \
  int64_t longstate_selective_block_##isa();                                            \
  int64_t longstate_selective_tiles_##isa(int64_t, int64_t);                            \
  void longstate_selective_forward_##isa(const SelectiveScan*, int64_t, int64_t);       \
  void longstate_selective_backward_##isa(const SelectiveScan*, int64_t, int64_t);      \
  int64_t longstate_lanes_##isa();                                                      \
  int64_t longstate_lti_border_##isa(int32_t);                                          \
  int64_t longstate_lti_tasks_##isa(const LTIScan*);                                    \
  void longstate_lti_forward_##isa(const LTIScan*, int64_t, int64_t);                   \
  void longstate_lti_backward_##isa(const LTIScan*, int64_t, int64_t);                  \
  int64_t longstate_doubles_##isa();                                                    \
  void longstate_lti_factors_forward_##isa(const LTIFactors*, int64_t, int64_t);        \
  void longstate_lti_factors_backward_##isa(const LTIFactors*, int64_t, int64_t);       \
  int64_t longstate_gelu_map_rows_##isa();                                              \
  void longstate_gelu_map_forward_##isa(const GELUMap*, int64_t, int64_t);              \
  void longstate_gelu_map_backward_##isa(const GELUMap*, int64_t, int64_t);             \
  int64_t longstate_dropout_task_##isa();                                               \
  void longstate_dropout_##isa(const Dropout*, int64_t, int64_t);                       \
  void longstate_lti_step_##isa(const LTIStep*, int64_t, int64_t);                      \
  int64_t longstate_varying_block_##isa();                                              \
  void longstate_varying_forward_##isa(const VaryingScan*, int64_t, int64_t);           \
  void longstate_varying_backward_##isa(const VaryingScan*, int64_t, int64_t);          \
  int64_t longstate_linear_tile_##isa();                                                \
  void longstate_linear_forward_##isa(const LinearScan*, int64_t, int64_t);             \
  void longstate_linear_backward_##isa(const LinearScan*, int64_t, int64_t);            \
  void longstate_lti_stack_##isa(const LTIStack*, float* const*, int64_t, int64_t);     \
  void longstate_linear_step_##isa(const LinearStep*, int64_t, int64_t);                \
  void longstate_mamba_step_##isa(const MambaStep*, int32_t, int64_t, int64_t);         \
  void longstate_mamba2_step_##isa(const Mamba2Step*, int32_t, int64_t, int64_t);       \
  int64_t longstate_conv1d_tile_##isa();                                                \
  void longstate_conv1d_forward_##isa(const CausalConv1d*, int64_t, int64_t);           \
  void longstate_conv1d_backward_##isa(const CausalConv1d*, int64_t, int64_t);         \
  int64_t longstate_ssd_tiles_##isa(int64_t, int64_t);                                  \
  void longstate_ssd_forward_##isa(const SSD*, int64_t, int64_t);                       \
  void longstate_ssd_backward_##isa(const SSD*, int64_t, int64_t);

extern "C" {
DECLARE(base)
#ifdef LONGSTATE_X86
DECLARE(avx2)
DECLARE(avx512)
#endif
}

namespace {

constexpr int64_t kStepGrain = 32768;  // numbers that another thread is worth waking for

struct Kernels {
  const char* isa;
  count_fn selective_block;
  tiles_fn selective_tiles;
  selective_fn selective_forward, selective_backward;
  count_fn lanes;
  border_fn lti_border;
  lti_tasks_fn lti_tasks;
  lti_fn lti_forward, lti_backward;
  count_fn doubles;
  lti_factors_fn lti_factors_forward, lti_factors_backward;
  count_fn gelu_map_rows;
  gelu_map_fn gelu_map_forward, gelu_map_backward;
  count_fn dropout_task;
  dropout_fn dropout;
  lti_step_fn lti_step;
  count_fn varying_block;
  varying_fn varying_forward, varying_backward;
  count_fn linear_tile;
  linear_fn linear_forward, linear_backward;
  lti_stack_fn lti_stack;
  linear_step_fn linear_step;
  mamba_step_fn mamba_step;
  mamba2_step_fn mamba2_step;
  count_fn conv1d_tile;
  conv1d_fn conv1d_forward, conv1d_backward;
  tiles_fn ssd_tiles;
  ssd_fn ssd_forward, ssd_backward;
};

#define KERNELS(isa)                                                                                            \
  Kernels {                                                                                                     \
    #isa, longstate_selective_block_##isa, longstate_selective_tiles_##isa, longstate_selective_forward_##isa,  \
        longstate_selective_backward_##isa, longstate_lanes_##isa, longstate_lti_border_##isa,                  \
        longstate_lti_tasks_##isa,                                                                              \
        longstate_lti_forward_##isa, longstate_lti_backward_##isa, longstate_doubles_##isa,                      \
        longstate_lti_factors_forward_##isa, longstate_lti_factors_backward_##isa,                              \
        longstate_gelu_map_rows_##isa, longstate_gelu_map_forward_##isa, longstate_gelu_map_backward_##isa,      \
        longstate_dropout_task_##isa, longstate_dropout_##isa, longstate_lti_step_##isa,                        \
        longstate_varying_block_##isa, longstate_varying_forward_##isa, longstate_varying_backward_##isa,        \
        longstate_linear_tile_##isa, longstate_linear_forward_##isa, longstate_linear_backward_##isa,           \
        longstate_lti_stack_##isa,                                                                              \
        longstate_linear_step_##isa, longstate_mamba_step_##isa, longstate_mamba2_step_##isa,                   \
        longstate_conv1d_tile_##isa, longstate_conv1d_forward_##isa, longstate_conv1d_backward_##isa,           \
        longstate_ssd_tiles_##isa, longstate_ssd_forward_##isa, longstate_ssd_backward_##isa                    \
  }

// LONGSTATE_ISA (base, avx2, avx512) caps the choice, so that tests reach every variant that the machine can run.
Kernels choose() {
#ifdef LONGSTATE_X86
  const char* cap = std::getenv("LONGSTATE_ISA");
  const bool base_only = cap && !std::strcmp(cap, "base"), no_512 = cap && !std::strcmp(cap, "avx2");
  __builtin_cpu_init();
  const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  const bool has_2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_512 && !base_only && !no_512) return KERNELS(avx512);
  if (has_2 && !base_only) return KERNELS(avx2);
#endif
  return KERNELS(base);
}

const Kernels& kernels() {
  static const Kernels chosen = choose();
  return chosen;
}

int32_t over_tasks(int64_t tasks, const void* arguments, range_fn body, parallel_for pool, int64_t grain = 1) {
  void* context = const_cast<void*>(arguments);
  if (!pool || tasks <= grain) {
    body(0, tasks, context);
    return 0;
  }
  return pool(0, tasks, grain, body, context);
}

int64_t selective_tasks(const SelectiveScan* p) {
  return p->batch * p->groups * kernels().selective_tiles(p->channels, p->groups);
}

int64_t lti_factors_tasks(const LTIFactors* p) {
  return (p->features + kernels().doubles() - 1) / kernels().doubles();
}

struct StackStep {
  const LTIStack* stack;
  float* const* memory;
};

void lti_stack_range(int64_t begin, int64_t end, void* context) {
  const StackStep* step = static_cast<const StackStep*>(context);
  kernels().lti_stack(step->stack, step->memory, begin, end);
}

// Numbers that one row of a stack reads.
int64_t lti_stack_work(const LTIStack* p) {
  int64_t work = 0;
  for (int64_t i = 0; i < p->count; i++) {
    const LTIStep& system = p->blocks[i].system;
    const int64_t map = p->blocks[i].weight ? system.channels * p->features : 0;
    work += p->features * (system.states * (system.kind == kDense ? system.states : 1) + map);
  }
  return work;
}

int64_t lti_tiles(const LTIScan* p) { return (p->features + kernels().lanes() - 1) / kernels().lanes(); }

#define RANGE(name, kernel, arguments)                                 \
  void name(int64_t begin, int64_t end, void* context) {               \
    kernels().kernel(static_cast<const arguments*>(context), begin, end); \
  }
RANGE(selective_range, selective_forward, SelectiveScan)
RANGE(selective_back_range, selective_backward, SelectiveScan)
RANGE(lti_range, lti_forward, LTIScan)
RANGE(lti_back_range, lti_backward, LTIScan)
RANGE(lti_factors_range, lti_factors_forward, LTIFactors)
RANGE(lti_factors_back_range, lti_factors_backward, LTIFactors)
RANGE(gelu_map_range, gelu_map_forward, GELUMap)
RANGE(gelu_map_back_range, gelu_map_backward, GELUMap)
RANGE(dropout_range, dropout, Dropout)
RANGE(lti_step_range, lti_step, LTIStep)
RANGE(varying_range, varying_forward, VaryingScan)
RANGE(varying_back_range, varying_backward, VaryingScan)
RANGE(linear_range, linear_forward, LinearScan)
RANGE(linear_back_range, linear_backward, LinearScan)
RANGE(linear_step_range, linear_step, LinearStep)
RANGE(conv1d_range, conv1d_forward, CausalConv1d)
RANGE(conv1d_back_range, conv1d_backward, CausalConv1d)
RANGE(ssd_range, ssd_forward, SSD)
RANGE(ssd_back_range, ssd_backward, SSD)

int64_t ssd_tasks(const SSD* p) { return p->batch * p->groups * kernels().ssd_tiles(p->heads, p->groups); }

int64_t varying_tasks(const VaryingScan* p) {
  return p->batch * ((p->features + kernels().lanes() - 1) / kernels().lanes());
}

int64_t linear_tasks(const LinearScan* p) {
  return p->batch * ((p->channels + kernels().linear_tile() - 1) / kernels().linear_tile());
}

int64_t conv1d_tasks(const CausalConv1d* p) {
  return p->batch * ((p->features + kernels().conv1d_tile() - 1) / kernels().conv1d_tile());
}

// A product of every row of a batch with `outputs` rows of `inputs` weights, as part of a step.
int32_t over_outputs(int64_t batch, int64_t outputs, int64_t inputs, const void* p, range_fn body, parallel_for pool) {
  const int64_t grain = 1 + kStepGrain / (1 + batch * kStepRows * inputs);
  return over_tasks((outputs + kStepRows - 1) / kStepRows, p, body, pool, grain);
}

template <MambaPhase phase>
void mamba_range(int64_t begin, int64_t end, void* context) {
  kernels().mamba_step(static_cast<const MambaStep*>(context), phase, begin, end);
}

int32_t mamba_step(MambaStep step, parallel_for pool) {
  const MambaStep* p = &step;
  const int64_t B = p->batch, E = p->channels, vectors = p->rank + 2 * p->states;
  const std::unique_ptr<float[]> work(new (std::nothrow) float[B * (3 * E + vectors + p->width)]);
  if (!work) return 1;
  step.own_work = work.get();
  if (p->branch) over_tasks(B, p, mamba_range<kMambaBegin>, nullptr);
  int32_t failed = over_outputs(B, 2 * E, p->width, p, mamba_range<kMambaIn>, pool);
  failed |= over_outputs(B, vectors, E, p, mamba_range<kMambaVectors>, pool);
  if (p->norms) over_tasks(B, p, mamba_range<kMambaNorms>, nullptr);
  failed |= over_outputs(B, E, p->rank + 8 * p->states, p, mamba_range<kMambaScan>, pool);
  return failed | over_outputs(B, p->width, E, p, mamba_range<kMambaOut>, pool);
}

template <Mamba2Phase phase>
void mamba2_range(int64_t begin, int64_t end, void* context) {
  kernels().mamba2_step(static_cast<const Mamba2Step*>(context), phase, begin, end);
}

int32_t mamba2_step(Mamba2Step step, parallel_for pool) {
  const Mamba2Step* p = &step;
  const int64_t B = p->batch, E = p->heads * p->head_width, filtered = E + 2 * p->groups * p->states;
  const int64_t entering = E + filtered + p->heads;
  const std::unique_ptr<float[]> work(new (std::nothrow) float[B * (entering + filtered + p->width)]);
  if (!work) return 1;
  step.own_work = work.get();
  if (p->branch) over_tasks(B, p, mamba2_range<kMamba2Begin>, nullptr);
  int32_t failed = over_outputs(B, entering, p->width, p, mamba2_range<kMamba2In>, pool);
  const int64_t grain = 1 + kStepGrain / (1 + 4 * p->head_width * p->states);
  failed |= over_tasks(B * p->heads, p, mamba2_range<kMamba2Heads>, pool, grain);
  if (p->gate != kGateOnly) over_tasks(B * p->groups, p, mamba2_range<kMamba2Norm>, nullptr);
  return failed | over_outputs(B, p->width, E, p, mamba2_range<kMamba2Out>, pool);
}

}  // namespace

LONGSTATE_API int32_t longstate_abi_version() { return 6; }
LONGSTATE_API const char* longstate_isa() { return kernels().isa; }
LONGSTATE_API int64_t longstate_selective_block() { return kernels().selective_block(); }
LONGSTATE_API int64_t longstate_selective_tiles(int64_t channels, int64_t groups) {
  return groups * kernels().selective_tiles(channels, groups);
}
LONGSTATE_API int32_t longstate_selective_scan(const SelectiveScan* p, parallel_for pool) {
  return over_tasks(selective_tasks(p), p, selective_range, pool);
}
LONGSTATE_API int32_t longstate_selective_scan_backward(const SelectiveScan* p, parallel_for pool) {
  return over_tasks(selective_tasks(p), p, selective_back_range, pool);
}
LONGSTATE_API int64_t longstate_lanes() { return kernels().lanes(); }
LONGSTATE_API int64_t longstate_lti_border(int32_t kind) { return kernels().lti_border(kind); }
LONGSTATE_API int32_t longstate_lti_scan(const LTIScan* p, parallel_for pool) {
  return over_tasks(kernels().lti_tasks(p), p, lti_range, pool);
}
LONGSTATE_API int32_t longstate_lti_scan_backward(const LTIScan* p, parallel_for pool) {
  return over_tasks(lti_tiles(p) * p->parts, p, lti_back_range, pool);
}
LONGSTATE_API int32_t longstate_lti_factors(const LTIFactors* p, parallel_for pool) {
  return over_tasks(lti_factors_tasks(p), p, lti_factors_range, pool);
}
LONGSTATE_API int32_t longstate_lti_factors_backward(const LTIFactors* p, parallel_for pool) {
  return over_tasks(lti_factors_tasks(p), p, lti_factors_back_range, pool);
}
LONGSTATE_API int32_t longstate_gelu_map(const GELUMap* p, parallel_for pool) {
  const int64_t rows = kernels().gelu_map_rows();
  return over_tasks((p->rows + rows - 1) / rows, p, gelu_map_range, pool);
}
LONGSTATE_API int32_t longstate_gelu_map_backward(const GELUMap* p, parallel_for pool) {
  return over_tasks(p->parts, p, gelu_map_back_range, pool);
}
LONGSTATE_API int32_t longstate_dropout(const Dropout* p, parallel_for pool) {
  const int64_t task = kernels().dropout_task();
  return over_tasks((p->count + task - 1) / task, p, dropout_range, pool);
}
LONGSTATE_API int32_t longstate_lti_step(const LTIStep* p, parallel_for pool) {
  const int64_t work = p->states * (p->kind == kDense ? p->states : 1);
  return over_tasks(p->batch * p->features, p, lti_step_range, pool, 1 + kStepGrain / work);
}
LONGSTATE_API int64_t longstate_varying_block() { return kernels().varying_block(); }
LONGSTATE_API int32_t longstate_varying_scan(const VaryingScan* p, parallel_for pool) {
  return over_tasks(varying_tasks(p), p, varying_range, pool);
}
LONGSTATE_API int32_t longstate_varying_scan_backward(const VaryingScan* p, parallel_for pool) {
  return over_tasks(varying_tasks(p), p, varying_back_range, pool);
}
LONGSTATE_API int32_t longstate_linear_scan(const LinearScan* p, parallel_for pool) {
  return over_tasks(linear_tasks(p), p, linear_range, pool);
}
LONGSTATE_API int32_t longstate_linear_scan_backward(const LinearScan* p, parallel_for pool) {
  return over_tasks(linear_tasks(p), p, linear_back_range, pool);
}
LONGSTATE_API int32_t longstate_lti_stack(const LTIStack* p, int64_t batch, float* const* memory, parallel_for pool) {
  const StackStep step{p, memory};
  return over_tasks(batch, &step, lti_stack_range, pool, 1 + kStepGrain / (1 + lti_stack_work(p)));
}
LONGSTATE_API int32_t longstate_linear_step(const LinearStep* p, parallel_for pool) {
  return over_outputs(p->batch, p->outputs, p->inputs, p, linear_step_range, pool);
}
LONGSTATE_API int32_t longstate_mamba_steps(const MambaStep* steps, int64_t count, parallel_for pool) {
  int32_t failed = 0;
  for (int64_t i = 0; i < count && !failed; i++) failed = mamba_step(steps[i], pool);
  return failed;
}
LONGSTATE_API int32_t longstate_mamba2_steps(const Mamba2Step* steps, int64_t count, parallel_for pool) {
  int32_t failed = 0;
  for (int64_t i = 0; i < count && !failed; i++) failed = mamba2_step(steps[i], pool);
  return failed;
}
LONGSTATE_API int32_t longstate_causal_conv1d(const CausalConv1d* p, parallel_for pool) {
  return over_tasks(conv1d_tasks(p), p, conv1d_range, pool);
}
LONGSTATE_API int32_t longstate_causal_conv1d_backward(const CausalConv1d* p, parallel_for pool) {
  return over_tasks(conv1d_tasks(p), p, conv1d_back_range, pool);
}
LONGSTATE_API int64_t longstate_ssd_tiles(int64_t heads, int64_t groups) {
  return groups * kernels().ssd_tiles(heads, groups);
}
LONGSTATE_API int32_t longstate_ssd(const SSD* p, parallel_for pool) {
  return over_tasks(ssd_tasks(p), p, ssd_range, pool);
}
LONGSTATE_API int32_t longstate_ssd_backward(const SSD* p, parallel_for pool) {
  return over_tasks(ssd_tasks(p), p, ssd_back_range, pool);
}
