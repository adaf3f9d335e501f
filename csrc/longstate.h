// The C interface of longstate's kernels: plain functions over float32 arrays, loaded with ctypes, without torch.
//
// Every pointer is to contiguous memory unless strides stand beside it. A null pointer leaves an argument out.
#pragma once
#include <cstdint>

#if defined(_WIN32)
#define LONGSTATE_API extern "C" __declspec(dllexport)
#else
#define LONGSTATE_API extern "C" __attribute__((visibility("default")))
#endif

// libtorch's stable symbol torch_parallel_for (torch >= 2.10); null: run in the calling thread.
typedef void (*range_fn)(int64_t begin, int64_t end, void* context);
typedef int32_t (*parallel_for)(int64_t begin, int64_t end, int64_t grain, range_fn, void* context);

// Rows of a (batch, length, width) array whose last axis is contiguous.
struct Rows {
  float* data;
  int64_t batch_stride;
  int64_t time_stride;
};

// h_t = exp(D_t A) h_{t-1} + D_t B_t u_t,  y_t = (C_t h_t + D u_t) silu(z_t),  D_t = softplus(dt_t + dt_bias)
struct SelectiveScan {
  int64_t batch, length, channels, states, groups;
  Rows u, dt, z, B, C;      // B, C: (batch, length, groups * states); z may be null
  const float* A;           // (channels, states)
  const float* D;           // (channels) or null
  const float* dt_bias;     // (channels) or null
  int32_t softplus;
  const float* state;       // (batch, channels, states) or null
  const int64_t* lengths;   // (batch) or null
  const uint8_t* starts;    // (batch, length) or null
  float* y;                 // (batch, length, channels)
  float* final_state;       // (batch, channels, states)
  float* borders;           // (batch, blocks, states, channels): states before every block, or null
  // Of the backward pass.
  const float* grad_y;      // (batch, length, channels)
  const float* grad_final;  // (batch, channels, states)
  float *grad_u, *grad_dt, *grad_z;    // (batch, length, channels)
  float *grad_A, *grad_D, *grad_bias;  // (batch, channels, states), (batch, channels), (batch, channels)
  float *grad_B, *grad_C;              // (tiles, batch, length, states): one part a tile of channels
  float* grad_state;                   // (batch, channels, states)
};

// s_t = A s_{t-1} + B u_t, y_t = C s_t + D u_t for every feature, by chunks of T = `chunk` elements:
// y_t = sum_{l <= t} taps_l u_{t-l} + rows_t s, s' = carry s + sum_t columns_t u_t. Features lie beside each other.
enum Carry : int32_t { kReal, kComplex, kDense };  // diagonal; diagonal in pairs re, im; matrices

struct LTIScan {
  int64_t batch, length, features, channels, states, chunk, parts;
  int32_t kind;             // Carry
  Rows u;                   // (batch, length, features)
  const float* taps;        // (channels, T, features)
  const float* rows;        // (channels, T, states, features)
  const float* columns;     // (T, states, features)
  const float* carry;       // (states, features), or (states, states, features): [to, from]
  const float* state;       // (batch, states, features) or null
  const int64_t* lengths;   // (batch) or null
  float* y;                 // (batch, length, channels, features)
  float* last;              // (batch, states, features): states before the last chunk of each row
  float* borders;           // (-, batch, states, features): states before every border, longstate_lti_border, or null
  // Of the backward pass.
  const float *grad_y, *grad_last;
  float *grad_u, *grad_state;
  float *grad_taps, *grad_rows, *grad_columns, *grad_carry;  // (parts, ...): row r of the batch adds to part r % parts
};

// The factors of `LTIScan` and their gradients, from systems in double: A is diagonal, in pairs re, im or real; or such
// a diagonal and a matrix of low rank, A = rotations + sum_k left_k right_k^T, whose states are [re of all, im of all].
struct LTIFactors {
  int64_t features, channels, states, chunk, rank;
  int32_t kind;          // Carry; of kDense, the diagonal and the low rank
  const double* A;       // (features, states): pairs re, im, or real numbers for kReal
  const double *left, *right;  // (rank, features, states); of kDense only
  const double* B;       // (features, states)
  const double* C;       // (channels, features, states)
  const double* D;       // (channels, features)
  float *taps, *rows, *columns, *carry;  // as in `LTIScan`
  // Of the backward pass.
  const float *grad_taps, *grad_rows, *grad_columns, *grad_carry;
  double *grad_A, *grad_left, *grad_right, *grad_B, *grad_C, *grad_D;
};

// out = a gate over W gelu(y) + c, row by row; see gelu_map.cc.
enum GateKind : int32_t { kGLU, kHalfGLU1, kHalfGLU2, kLinear };

struct GELUMap {
  int64_t rows, features, outputs, parts;
  int32_t kind, tanh;    // GateKind; whether it is GELU's approximation by tanh
  const float* y;        // (rows, features)
  const float* weight;   // (outputs, features), for kGLU values and then gates: (2 outputs, features)
  const float* bias;     // one for each row of the weight, or null
  float* out;            // (rows, outputs)
  float* gate;           // (rows, outputs), of the gated kinds: what multiplied the values; null: not to be kept
  // Of the backward pass, which reads out and gate.
  const float* grad_out;             // (rows, outputs)
  float* grad_y;                     // (rows, features) or null
  float *grad_weight, *grad_bias;    // (parts, ...) like weight and bias, or null: each sums its share of the rows
};

// y_i = x_i scale, or x_i 0 where the 16 bits that belong to i are below the threshold; see dropout.cc.
struct Dropout {
  int64_t count;
  uint64_t seed;
  uint32_t threshold;
  float scale;
  const float* x;
  float* y;
};

// x <- A x + B u, y = Re(C x) + D u; complex numbers as pairs re, im that count as two states.
struct LTIStep {
  int64_t batch, features, channels, states;
  int32_t kind;        // Carry
  const float* u;      // (batch, features)
  const float* state;  // (batch, features, states)
  const float* A;      // (features, states), or (features, states, states): [to, from]
  const float* B;      // (features, states)
  const float* C;      // (channels, features, states)
  const float* D;      // (channels, features)
  float* y;            // (batch, channels, features)
  float* next;         // (batch, features, states)
};

// (x - mean) / sqrt(variance + eps) * weight + bias over the features; kRMS takes 0 for the mean.
enum NormKind : int32_t { kNoNorm, kLayerNorm, kRMSNorm };

struct Norm {
  int32_t kind;         // NormKind
  float eps;
  const float* weight;  // (features) or null
  const float* bias;    // (features) or null
};

// x + scale * output(system(norm(x))), where output is an activation, then an affine map, then a gate if it is gated.
enum Activation : int32_t { kIdentity, kGelu, kGeluTanh };

struct LTIBlock {
  LTIStep system;       // its sizes, A, B, C and D
  Norm norm;
  int32_t activation;   // Activation
  int32_t gated;        // outputs a * sigmoid(b) for the halves a, b of what the map gives
  float scale;
  const float* weight;  // (features, or 2 features if gated; channels * features), or null: no map
  const float* bias;    // one for each row of the weight, or null
};

// Blocks one after the other, and a last norm: what stays from step to step.
struct LTIStack {
  int64_t features, count;
  const LTIBlock* blocks;
  Norm norm;
};

constexpr int64_t kStepRows = 4;  // outputs of a product that make a task

// y = x W^T + b for a few rows.
struct LinearStep {
  int64_t batch, inputs, outputs;
  const float* x;       // (batch, inputs)
  const float* weight;  // (outputs, inputs)
  const float* bias;    // (outputs) or null
  float* y;             // (batch, outputs)
};

// One step of Mamba, mamba(u), or of a residual branch around it, u + scale mamba(rms_norm(u)); see mamba_step.cc.
enum MambaPhase : int32_t { kMambaBegin, kMambaIn, kMambaVectors, kMambaNorms, kMambaScan, kMambaOut };

struct MambaStep {
  int64_t batch, width, channels, states, taps, rank;
  int32_t branch;       // whether it is a residual branch
  const float* norm;    // (width), of the branch's norm, or null
  float norm_eps, scale;
  int32_t norms;        // whether r, B and C are normalised
  float eps, rate;
  const float* x;       // (batch, width)
  const float* tail;    // (batch, taps - 1, channels)
  const float* state;   // (batch, channels, states)
  const float* rates;   // (batch) in place of `rate`, or null
  const float *into, *into_bias;          // (2 channels, width), and (2 channels) or null
  const float *filter, *filter_bias;      // (channels, taps), and (channels) or null
  const float* vectors;                   // (rank + 2 states, channels)
  const float *norm_r, *norm_B, *norm_C;  // weights of the norms, or null
  const float *dt, *dt_bias;              // (channels, rank), (channels)
  const float *A, *D;                     // (channels, states), (channels)
  const float *out, *out_bias;            // (width, channels), and (width) or null
  float *y, *next_tail, *next;            // like x, tail and state
  float* own_work;                        // the library's
};

// One step of Mamba-2, or of a residual branch around it; see mamba2_step.cc.
enum Mamba2Phase : int32_t { kMamba2Begin, kMamba2In, kMamba2Heads, kMamba2Norm, kMamba2Out };
enum Gate : int32_t { kGateOnly, kGateFirst, kNormFirst };

struct Mamba2Step {
  int64_t batch, width, heads, head_width, states, groups, taps;
  int32_t branch;      // as in MambaStep
  const float* norm;
  float norm_eps, scale;
  int32_t gate;        // Gate
  int32_t D_each;      // whether D has a number a channel
  float eps, floor, ceiling, rate;
  const float* x;      // (batch, width)
  const float* tail;   // (batch, taps - 1, filtered), filtered = heads head_width + 2 groups states
  const float* state;  // (batch, heads, head_width, states)
  const float* rates;  // (batch) in place of `rate`, or null
  const float *into, *into_bias;      // (heads head_width + filtered + heads, width), and a bias or null
  const float *filter, *filter_bias;  // (filtered, taps), and (filtered) or null
  const float *dt_bias, *A, *D;       // (heads), D: or (heads head_width)
  const float* norm_y;                // (heads head_width), or null with kGateOnly
  const float *out, *out_bias;        // (width, heads head_width), and (width) or null
  float *y, *next_tail, *next;        // like x, tail and state
  float* own_work;                    // the library's
};

// y_t = silu(bias + sum_{k < taps} weight_k x_{t - (taps-1) + k}), inputs before 0 being those of the tail.
struct CausalConv1d {
  int64_t batch, length, features, taps;
  int32_t silu;
  Rows x;                  // (batch, length, features)
  const float* weight;     // (taps, features)
  const float* bias;       // (features) or null
  const float* tail;       // (batch, taps - 1, features)
  const int64_t* lengths;  // (batch) or null
  const uint8_t* starts;   // (batch, length) or null: inputs before a start count as 0 from there on
  float* y;                // (batch, length, features)
  // Of the backward pass.
  const float* grad_y;               // (batch, length, features)
  float *grad_x, *grad_tail;         // like x and tail
  float *grad_weight, *grad_bias;    // (batch, taps, features), (batch, features)
};

// h_t = a_t h_{t-1} + b_t for numbers, complex numbers as pairs re, im, or pairs under 2 x 2 matrices [to, from].
struct LinearScan {
  int64_t batch, length, channels;
  int32_t kind;             // Carry; kDense: 2 x 2
  const double* shared;     // (channels, 1, 2 or 4): the transition of all elements; or null
  Rows a;                   // (batch, length, channels * 1, 2 or 4): one for every element, where `shared` is null
  Rows b;                   // (batch, length, channels * 1 or 2)
  const float* state;       // (batch, channels, 1 or 2) or null
  const int64_t* lengths;   // (batch) or null
  const uint8_t* starts;    // (batch, length) or null
  float* h;                 // (batch, length, channels, 1 or 2)
  float* final_state;       // (batch, channels, 1 or 2)
  // Of the backward pass, which reads h.
  const float *grad_h, *grad_final;
  float *grad_a, *grad_b, *grad_state;  // grad_a where `shared` is null
  double* grad_shared;                  // (batch, channels, 1, 2 or 4)
};

// S_t = e^{l_t} S_{t-1} + w_t x_t B_t^T, y_t = S_t C_t + D x_t; head h reads group h / (heads / groups).
struct SSD {
  int64_t batch, length, heads, width, states, groups;
  int64_t block, rank;      // steps of a block, a multiple of rank; so many steps are one instant and see each other
  Rows x;                   // (batch, length, heads * width)
  Rows weight, log_decay;   // w, null for ones, and l: (batch, length, heads)
  Rows B, C;                // (batch, length, groups * states)
  const float* D;           // (heads, width) or null
  const float* state;       // (batch, heads, width, states) or null
  const int64_t* lengths;   // (batch) or null
  const uint8_t* starts;    // (batch, length) or null
  float* y;                 // (batch, length, heads, width)
  float* final_state;       // (batch, heads, width, states)
  float* borders;           // (batch, blocks, heads, states, width): states before every block, or null
  // Of the backward pass.
  const float *grad_y, *grad_final;
  float *grad_x, *grad_weight, *grad_decay;  // (batch, length, heads * width), (batch, length, heads)
  float *grad_B, *grad_C;                    // (tiles, batch, length, states): one part a tile of heads
  float* grad_D;                             // (batch, heads, width)
  float* grad_state;                         // (batch, heads, width, states)
};

// x_t = e^(r_t z) x_{t-1} + growth_t gain u_t, y_t = Re(C x_t), growth_t = e^(r_t z) - 1 (held) or 1, for every feature;
// complex numbers as pairs re, im. Features lie beside each other.
struct VaryingScan {
  int64_t batch, length, features, channels, modes;
  int32_t held;
  Rows u;                   // (batch, length, features)
  const float* rate;        // (batch, length)
  const float *z, *gain;    // (modes, 2, features)
  const float* C;           // (channels, modes, 2, features)
  const float* state;       // (batch, modes, 2, features) or null
  const int64_t* lengths;   // (batch) or null
  const uint8_t* starts;    // (batch, length) or null
  float* y;                 // (batch, length, channels, features)
  float* final_state;       // (batch, modes, 2, features)
  float* borders;           // (batch, blocks, modes, 2, features): states before every block, or null
  // Of the backward pass.
  const float *grad_y, *grad_final;
  float* grad_u;                        // (batch, length, features)
  float* grad_rate;                     // (tiles of as many features as there are lanes, batch, length)
  float *grad_z, *grad_gain, *grad_C;   // (batch, ...): like z, gain, C
  float* grad_state;                    // (batch, modes, 2, features)
};

LONGSTATE_API int32_t longstate_abi_version();
LONGSTATE_API const char* longstate_isa();
LONGSTATE_API int64_t longstate_selective_block();
LONGSTATE_API int64_t longstate_selective_tiles(int64_t channels, int64_t groups);
LONGSTATE_API int32_t longstate_selective_scan(const SelectiveScan*, parallel_for);
LONGSTATE_API int32_t longstate_selective_scan_backward(const SelectiveScan*, parallel_for);
LONGSTATE_API int32_t longstate_linear_scan(const LinearScan*, parallel_for);
LONGSTATE_API int32_t longstate_linear_scan_backward(const LinearScan*, parallel_for);
LONGSTATE_API int64_t longstate_lanes();
LONGSTATE_API int64_t longstate_lti_border(int32_t kind);  // chunks between states that the forward pass keeps
LONGSTATE_API int32_t longstate_lti_scan(const LTIScan*, parallel_for);
LONGSTATE_API int32_t longstate_lti_scan_backward(const LTIScan*, parallel_for);
LONGSTATE_API int32_t longstate_lti_factors(const LTIFactors*, parallel_for);
LONGSTATE_API int32_t longstate_lti_factors_backward(const LTIFactors*, parallel_for);
LONGSTATE_API int32_t longstate_gelu_map(const GELUMap*, parallel_for);
LONGSTATE_API int32_t longstate_gelu_map_backward(const GELUMap*, parallel_for);
LONGSTATE_API int32_t longstate_dropout(const Dropout*, parallel_for);
LONGSTATE_API int32_t longstate_lti_step(const LTIStep*, parallel_for);
LONGSTATE_API int64_t longstate_varying_block();
LONGSTATE_API int32_t longstate_varying_scan(const VaryingScan*, parallel_for);
LONGSTATE_API int32_t longstate_varying_scan_backward(const VaryingScan*, parallel_for);
// One step of `batch` rows. `memory` points to x (batch, features), the state of each block as in LTIStep, y like x, and
// the next state of each block.
LONGSTATE_API int32_t longstate_lti_stack(const LTIStack*, int64_t batch, float* const* memory, parallel_for);
LONGSTATE_API int32_t longstate_linear_step(const LinearStep*, parallel_for);
LONGSTATE_API int32_t longstate_mamba_steps(const MambaStep*, int64_t count, parallel_for);
LONGSTATE_API int32_t longstate_mamba2_steps(const Mamba2Step*, int64_t count, parallel_for);
LONGSTATE_API int32_t longstate_causal_conv1d(const CausalConv1d*, parallel_for);
LONGSTATE_API int32_t longstate_causal_conv1d_backward(const CausalConv1d*, parallel_for);
LONGSTATE_API int64_t longstate_ssd_tiles(int64_t heads, int64_t groups);
LONGSTATE_API int32_t longstate_ssd(const SSD*, parallel_for);
LONGSTATE_API int32_t longstate_ssd_backward(const SSD*, parallel_for);
