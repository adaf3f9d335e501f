// Runs every kernel, forward and backward, on odd sizes against plain loops in double; without torch.
//
// Gradients are compared with those of the plain loops by differences: the loss is quadratic along every direction, or
// smooth enough, and is computed in double. Prints one line a kernel and returns the number of failures. The tests
// build it with the address and undefined-behaviour sanitizers.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "fastmath.h"
#include "lanes_math.h"
#include "longstate.h"

namespace {

std::mt19937 source(1);
int failures = 0;

std::vector<float> draw(int64_t count, float low = -1.f, float high = 1.f) {
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> x(count);
  for (float& value : x) value = uniform(source);
  return x;
}

// Exactly as large as they need be, and full of NaN: what a kernel forgets to write shows.
std::vector<float> unwritten(int64_t count) { return std::vector<float>(count, NAN); }

void expect(const std::string& what, double found, double wanted, double scale) {
  if (std::abs(found - wanted) <= 1e-4 * scale + 1e-6) return;
  std::printf("%s: found %g, wanted %g\n", what.c_str(), found, wanted);
  failures++;
}

void compare(const std::string& what, const std::vector<float>& found, const std::vector<double>& wanted) {
  double scale = 0;
  for (double value : wanted) scale = std::fmax(scale, std::abs(value));
  for (size_t i = 0; i < wanted.size(); i++) expect(what + "[" + std::to_string(i) + "]", found[i], wanted[i], scale);
}

// The derivative of `loss` along a random direction of `x`, against that of the gradient `slope`.
void compare_slope(const std::string& what, std::vector<float>& x, const std::vector<float>& slope,
                   const std::function<double()>& loss) {
  const std::vector<float> way = draw(x.size()), before = x;
  const double step = 1.0 / 256;  // exact in float32 where x is small
  double along = 0, total = 0;
  std::vector<double> moved(x.size());
  for (size_t i = 0; i < x.size(); i++) x[i] = before[i] + static_cast<float>(step) * way[i];
  for (size_t i = 0; i < x.size(); i++) moved[i] = x[i];
  const double up = loss();
  for (size_t i = 0; i < x.size(); i++) x[i] = before[i] - static_cast<float>(step) * way[i];
  const double down = loss();
  for (size_t i = 0; i < x.size(); i++) {
    const double part = slope[i] * (moved[i] - x[i]);
    along += part;
    total += std::abs(part);
  }
  x = before;
  if (std::isnan(along) || std::abs(along - (up - down)) > 2e-3 * total + 1e-6) {
    std::printf("%s: the slope says %g, the difference is %g\n", what.c_str(), along, up - down);
    failures++;
  }
}

double sum_of(const std::vector<double>& x, const std::vector<float>& weights) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); i++) sum += x[i] * weights[i];
  return sum;
}

struct Size {
  int64_t batch, length, features, states, channels;
};

std::vector<int64_t> some_lengths(const Size& size) {
  std::vector<int64_t> lengths;
  for (int64_t row = 0; row < size.batch; row++) lengths.push_back(row == 0 ? size.length : row == 1 ? 0 : size.length / 2);
  return lengths;
}

void lti_scan(const Size& size, Carry kind) {
  const int64_t B = size.batch, L = size.length, H = size.features, N = size.states, C = size.channels, T = 8;
  const int64_t carries = kind == kDense ? N * N : N, parts = 2, group = T * longstate_lti_border(kind);
  std::vector<float> u = draw(B * L * H), taps = draw(C * T * H), rows = draw(C * T * N * H);
  std::vector<float> columns = draw(T * N * H), carry = draw(carries * H, -0.5f, 0.5f), state = draw(B * N * H);
  const std::vector<int64_t> lengths = some_lengths(size);
  const std::vector<float> grad_y = draw(B * L * C * H), grad_last = draw(B * N * H);
  std::vector<float> y = unwritten(B * L * C * H), last = unwritten(B * N * H);
  std::vector<float> borders = unwritten((L + group - 1) / group * B * N * H);

  // The outputs (0 after the valid ones) and the states before the last chunks, in double.
  auto plain = [&](std::vector<double>& out, std::vector<double>& end) {
    out.assign(y.size(), 0);
    end.assign(last.size(), 0);
    for (int64_t b = 0; b < B; b++)
      for (int64_t h = 0; h < H; h++) {
        std::vector<double> s(N), next(N);
        for (int64_t n = 0; n < N; n++) s[n] = state[(b * N + n) * H + h];
        for (int64_t begin = 0; begin < lengths[b] || begin == 0; begin += T) {
          for (int64_t n = 0; n < N; n++) end[(b * N + n) * H + h] = s[n];
          for (int64_t n = 0; n < N; n++) {
            next[n] = 0;
            for (int64_t t = 0; t < T && begin + t < lengths[b]; t++)
              next[n] += double(columns[(t * N + n) * H + h]) * u[(b * L + begin + t) * H + h];
            if (kind == kDense)
              for (int64_t m = 0; m < N; m++) next[n] += carry[(n * N + m) * H + h] * s[m];
            else if (kind == kReal)
              next[n] += carry[n * H + h] * s[n];
            else if (n % 2 == 0)
              next[n] += carry[n * H + h] * s[n] - carry[(n + 1) * H + h] * s[n + 1];
            else
              next[n] += carry[(n - 1) * H + h] * s[n] + carry[n * H + h] * s[n - 1];
          }
          for (int64_t c = 0; c < C; c++)
            for (int64_t t = 0; t < T && begin + t < lengths[b]; t++) {
              double sum = 0;
              for (int64_t l = 0; l <= t; l++)
                sum += double(taps[(c * T + l) * H + h]) * u[(b * L + begin + t - l) * H + h];
              for (int64_t n = 0; n < N; n++) sum += rows[((c * T + t) * N + n) * H + h] * s[n];
              out[((b * L + begin + t) * C + c) * H + h] = sum;
            }
          s = next;
        }
      }
  };
  auto loss = [&]() {
    std::vector<double> out, end;
    plain(out, end);
    return sum_of(out, grad_y) + sum_of(end, grad_last);
  };

  std::vector<float> grad_u = unwritten(u.size()), grad_state = unwritten(state.size());
  std::vector<float> grad_taps = unwritten(parts * taps.size()), grad_rows = unwritten(parts * rows.size());
  std::vector<float> grad_columns = unwritten(parts * columns.size()), grad_carry = unwritten(parts * carry.size());
  LTIScan p{};
  p.batch = B, p.length = L, p.features = H, p.channels = C, p.states = N, p.chunk = T, p.parts = parts, p.kind = kind;
  p.u = {u.data(), L * H, H};
  p.taps = taps.data(), p.rows = rows.data(), p.columns = columns.data(), p.carry = carry.data();
  p.state = state.data(), p.lengths = lengths.data();
  p.y = y.data(), p.last = last.data(), p.borders = borders.data();
  p.grad_y = grad_y.data(), p.grad_last = grad_last.data(), p.grad_u = grad_u.data(), p.grad_state = grad_state.data();
  p.grad_taps = grad_taps.data(), p.grad_rows = grad_rows.data();
  p.grad_columns = grad_columns.data(), p.grad_carry = grad_carry.data();
  longstate_lti_scan(&p, nullptr);
  longstate_lti_scan_backward(&p, nullptr);

  std::vector<double> out, end;
  plain(out, end);
  compare("lti_scan y", y, out);
  compare("lti_scan last", last, end);
  auto summed = [&](const std::vector<float>& all) {
    std::vector<float> sum(all.begin(), all.begin() + all.size() / parts);
    for (size_t i = 0; i < sum.size(); i++) sum[i] += all[sum.size() + i];
    return sum;
  };
  compare_slope("lti_scan grad_u", u, grad_u, loss);
  compare_slope("lti_scan grad_state", state, grad_state, loss);
  compare_slope("lti_scan grad_taps", taps, summed(grad_taps), loss);
  compare_slope("lti_scan grad_rows", rows, summed(grad_rows), loss);
  compare_slope("lti_scan grad_columns", columns, summed(grad_columns), loss);
  compare_slope("lti_scan grad_carry", carry, summed(grad_carry), loss);
}

void lti_factors(const Size& size, Carry kind, int64_t rank) {
  const int64_t H = size.features, N = size.states, C = size.channels, T = 4, M = N / 2;
  const int64_t carries = kind == kDense ? N * N : N, R = kind == kDense ? rank : 0;
  std::vector<float> A = draw(H * N, -0.5f, 0.5f), left = draw(R * H * N, -0.4f, 0.4f), right = draw(R * H * N);
  std::vector<float> B = draw(H * N), Cs = draw(C * H * N), D = draw(C * H);
  const std::vector<float> grad_taps = draw(C * T * H), grad_rows = draw(C * T * N * H), grad_columns = draw(T * N * H);
  const std::vector<float> grad_carry = draw(carries * H);

  // Row vectors and columns of the matrix as it is written out; complex numbers are pairs that turn.
  auto plain = [&](std::vector<double>& taps, std::vector<double>& rows, std::vector<double>& columns,
                   std::vector<double>& carry) {
    taps.assign(grad_taps.size(), 0), rows.assign(grad_rows.size(), 0);
    columns.assign(grad_columns.size(), 0), carry.assign(grad_carry.size(), 0);
    for (int64_t h = 0; h < H; h++) {
      std::vector<double> a(N * N, 0);
      for (int64_t m = 0; m < (kind == kReal ? N : M); m++) {
        const int64_t r = kind == kComplex ? 2 * m : m, i = kind == kComplex ? 2 * m + 1 : M + m;
        if (kind == kReal) {
          a[r * N + r] = A[h * N + m];
          continue;
        }
        a[r * N + r] = a[i * N + i] = A[h * N + 2 * m];
        a[i * N + r] = A[h * N + 2 * m + 1];
        a[r * N + i] = -a[i * N + r];
      }
      for (int64_t k = 0; k < R; k++)
        for (int64_t i = 0; i < N; i++)
          for (int64_t j = 0; j < N; j++) a[i * N + j] += double(left[(k * H + h) * N + i]) * right[(k * H + h) * N + j];
      std::vector<double> power(N * N, 0), next(N * N);
      for (int64_t i = 0; i < N; i++) power[i * N + i] = 1;
      for (int64_t l = 0; l <= T; l++) {
        for (int64_t i = 0; i < N; i++)
          for (int64_t j = 0; j < N; j++) {
            const double value = power[i * N + j];
            if (l < T) columns[((T - 1 - l) * N + i) * H + h] += value * B[h * N + j];
            for (int64_t c = 0; c < C; c++) {
              const double out = (kind == kComplex && i % 2 ? -1 : 1) * Cs[(c * H + h) * N + i];
              if (l < T) taps[(c * T + l) * H + h] += out * value * B[h * N + j];
              if (l) rows[((c * T + l - 1) * N + j) * H + h] += out * value;
            }
            if (l == T && kind == kDense) carry[(i * N + j) * H + h] = value;
            if (l == T && kind == kReal && i == j) carry[i * H + h] = value;
            if (l == T && kind == kComplex && j % 2 == 0 && i / 2 == j / 2) carry[i * H + h] = value;
          }
        for (int64_t i = 0; i < N; i++)
          for (int64_t j = 0; j < N; j++) {
            next[i * N + j] = 0;
            for (int64_t m = 0; m < N; m++) next[i * N + j] += a[i * N + m] * power[m * N + j];
          }
        power = next;
      }
      for (int64_t c = 0; c < C; c++) taps[c * T * H + h] += D[c * H + h];
    }
  };
  auto loss = [&]() {
    std::vector<double> taps, rows, columns, carry;
    plain(taps, rows, columns, carry);
    return sum_of(taps, grad_taps) + sum_of(rows, grad_rows) + sum_of(columns, grad_columns) + sum_of(carry, grad_carry);
  };

  auto doubles = [](const std::vector<float>& x) { return std::vector<double>(x.begin(), x.end()); };
  auto floats = [](const std::vector<double>& x) { return std::vector<float>(x.begin(), x.end()); };
  const std::vector<double> dA = doubles(A), dleft = doubles(left), dright = doubles(right), dB = doubles(B);
  const std::vector<double> dC = doubles(Cs), dD = doubles(D);
  std::vector<float> taps = unwritten(grad_taps.size()), rows = unwritten(grad_rows.size());
  std::vector<float> columns = unwritten(grad_columns.size()), carry = unwritten(grad_carry.size());
  std::vector<double> grad_A(A.size(), NAN), grad_left(left.size(), NAN), grad_right(right.size(), NAN);
  std::vector<double> grad_B(B.size(), NAN), grad_C(Cs.size(), NAN), grad_D(D.size(), NAN);
  LTIFactors p{};
  p.features = H, p.channels = C, p.states = N, p.chunk = T, p.rank = R, p.kind = kind;
  p.A = dA.data(), p.left = dleft.data(), p.right = dright.data();
  p.B = dB.data(), p.C = dC.data(), p.D = dD.data();
  p.taps = taps.data(), p.rows = rows.data(), p.columns = columns.data(), p.carry = carry.data();
  p.grad_taps = grad_taps.data(), p.grad_rows = grad_rows.data();
  p.grad_columns = grad_columns.data(), p.grad_carry = grad_carry.data();
  p.grad_A = grad_A.data(), p.grad_left = grad_left.data(), p.grad_right = grad_right.data();
  p.grad_B = grad_B.data(), p.grad_C = grad_C.data(), p.grad_D = grad_D.data();
  longstate_lti_factors(&p, nullptr);
  longstate_lti_factors_backward(&p, nullptr);

  std::vector<double> out, before, after, over;
  plain(out, before, after, over);
  compare("lti_factors taps", taps, out);
  compare("lti_factors rows", rows, before);
  compare("lti_factors columns", columns, after);
  compare("lti_factors carry", carry, over);
  compare_slope("lti_factors grad_A", A, floats(grad_A), loss);
  compare_slope("lti_factors grad_left", left, floats(grad_left), loss);
  compare_slope("lti_factors grad_right", right, floats(grad_right), loss);
  compare_slope("lti_factors grad_B", B, floats(grad_B), loss);
  compare_slope("lti_factors grad_C", Cs, floats(grad_C), loss);
  compare_slope("lti_factors grad_D", D, floats(grad_D), loss);
}

void lti_step(const Size& size, Carry kind) {
  const int64_t B = size.batch, H = size.features, N = size.states, C = size.channels;
  const std::vector<float> u = draw(B * H), state = draw(B * H * N), A = draw(H * N * (kind == kDense ? N : 1));
  const std::vector<float> in = draw(H * N), out = draw(C * H * N), D = draw(C * H);
  std::vector<float> y = unwritten(B * C * H), next = unwritten(B * H * N);
  LTIStep p{};
  p.batch = B, p.features = H, p.channels = C, p.states = N, p.kind = kind;
  p.u = u.data(), p.state = state.data(), p.A = A.data(), p.B = in.data(), p.C = out.data(), p.D = D.data();
  p.y = y.data(), p.next = next.data();
  longstate_lti_step(&p, nullptr);
  std::vector<double> x(next.size()), seen(y.size());
  for (int64_t b = 0; b < B; b++)
    for (int64_t h = 0; h < H; h++) {
      const float *s = &state[(b * H + h) * N], *a = &A[h * N * (kind == kDense ? N : 1)];
      for (int64_t n = 0; n < N; n++) {
        double sum = double(in[h * N + n]) * u[b * H + h];
        if (kind == kDense)
          for (int64_t m = 0; m < N; m++) sum += double(a[n * N + m]) * s[m];
        else if (kind == kReal)
          sum += double(a[n]) * s[n];
        else
          sum += n % 2 == 0 ? double(a[n]) * s[n] - double(a[n + 1]) * s[n + 1]
                            : double(a[n - 1]) * s[n] + double(a[n]) * s[n - 1];
        x[(b * H + h) * N + n] = sum;
      }
      for (int64_t c = 0; c < C; c++) {
        double sum = double(D[c * H + h]) * u[b * H + h];
        for (int64_t n = 0; n < N; n++)
          sum += (kind == kComplex && n % 2 ? -1 : 1) * double(out[(c * H + h) * N + n]) * x[(b * H + h) * N + n];
        seen[(b * C + c) * H + h] = sum;
      }
    }
  compare("lti_step y", y, seen);
  compare("lti_step next", next, x);
}

void error_function() {
  for (int i = -60000; i <= 60000; i++) {
    const float x = i * 1e-4f, found = fast_erf(x);
    const double wanted = std::erf(double(x)), off = std::abs(found - wanted);
    if (off > 2e-7 * std::abs(wanted)) {
      std::printf("fast_erf(%g): found %.9g, wanted %.9g\n", x, found, wanted);
      failures++;
    }
  }
  if (!std::isnan(fast_erf(NAN)) || fast_erf(INFINITY) != 1.f || fast_erf(-INFINITY) != -1.f) failures++;
}

float first_lane(vec x) {
  float first;
  std::memcpy(&first, &x, sizeof(first));
  return first;
}

void functions_of_lanes() {
  const auto check = [](const char* what, float x, vec found, double wanted, double least) {
    const double off = std::abs(first_lane(found) - wanted);
    if (off <= 3e-7 * std::abs(wanted) + least) return;
    std::printf("%s(%g): found %.9g, wanted %.9g\n", what, x, first_lane(found), wanted);
    failures++;
  };
  const vec one = zero() + 1.f;
  for (int i = -100000; i <= 100000; i++) {
    const float x = i * 1e-3f;
    const Softplus both = softplus(zero() + x);
    check("exp2_of_product", x, exp2_of_product(zero() + x, one), std::exp2(double(x)), 0);
    check("sigmoid", x, sigmoid(zero() + x), 1 / (1 + std::exp(-double(x))), 2e-38);
    check("softplus", x, both.value, x > 30 ? x : std::log1p(std::exp(double(x))), 2e-38);
    check("slope of softplus", x, both.slope, 1 / (1 + std::exp(-double(x))), 2e-38);
  }
  for (float x : {-126.f, -130.f, -1e6f, -1e30f}) check("exp2_of_product", x, exp2_of_product(zero() + x, one), 0, 2e-38);
  check("exp2_of_product", 0.f, exp2_of_product(zero(), one), 1, -3e-7);
  if (first_lane(exp2_of_product(zero() + 200.f, one)) != INFINITY) failures++;
  if (first_lane(sigmoid(zero() + INFINITY)) != 1.f || first_lane(softplus(zero() + 1e30f).value) != 1e30f) failures++;
  for (vec x : {exp2_of_product(zero() + NAN, one), sigmoid(zero() + NAN), softplus(zero() + NAN).value})
    if (!std::isnan(first_lane(x))) failures++;
}

std::vector<double> normal(const std::vector<double>& x, const Norm& norm, int64_t H) {
  std::vector<double> y = x;
  for (size_t begin = 0; begin < x.size() && norm.kind != kNoNorm; begin += H) {
    double mean = 0, square = 0;
    for (int64_t h = 0; h < H && norm.kind == kLayerNorm; h++) mean += x[begin + h] / H;
    for (int64_t h = 0; h < H; h++) square += (x[begin + h] - mean) * (x[begin + h] - mean) / H;
    for (int64_t h = 0; h < H; h++) y[begin + h] = (x[begin + h] - mean) / std::sqrt(square + norm.eps);
  }
  for (size_t i = 0; i < x.size(); i++)
    y[i] = y[i] * (norm.weight ? norm.weight[i % H] : 1) + (norm.bias ? norm.bias[i % H] : 0);
  return y;
}

double activated(int32_t activation, double x) {
  if (activation == kGelu) return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  const double z = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  return activation == kGeluTanh ? x / 2 * (1 + std::tanh(z)) : x;
}

// Two blocks of diagonal real systems; that the systems of other kinds do their step is seen by `lti_step`.
void lti_stack(const Size& size, int32_t norm, int32_t activation, bool mapped, bool gated) {
  const int64_t B = size.batch, H = size.features, N = size.states, C = mapped ? size.channels : 1, blocks = 2;
  const int64_t outputs = gated ? 2 * H : H;
  const std::vector<float> x = draw(B * H), A = draw(H * N), in = draw(H * N), out = draw(C * H * N), D = draw(C * H);
  const std::vector<float> weight = draw(outputs * C * H), bias = draw(outputs), scale = draw(H), shift = draw(H);
  std::vector<float> y = unwritten(B * H);
  std::vector<std::vector<float>> state, next(blocks, unwritten(B * H * N));
  for (int64_t i = 0; i < blocks; i++) state.push_back(draw(B * H * N));
  LTIBlock block{};
  block.system.batch = 1, block.system.features = H, block.system.channels = C, block.system.states = N;
  block.system.kind = kReal, block.system.A = A.data(), block.system.B = in.data();
  block.system.C = out.data(), block.system.D = D.data();
  block.norm = {norm, 1e-5f, norm == kNoNorm ? nullptr : scale.data(), norm == kLayerNorm ? shift.data() : nullptr};
  block.activation = activation, block.gated = gated, block.scale = 0.5f;
  if (mapped) block.weight = weight.data(), block.bias = gated ? nullptr : bias.data();
  const std::vector<LTIBlock> both(blocks, block);
  const LTIStack p{H, blocks, both.data(), block.norm};
  std::vector<float> given = x;
  float* const memory[] = {given.data(), state[0].data(), state[1].data(), y.data(), next[0].data(), next[1].data()};
  longstate_lti_stack(&p, B, memory, nullptr);

  std::vector<double> wide(x.begin(), x.end());
  for (int64_t i = 0; i < blocks; i++) {
    const std::vector<double> u = normal(wide, block.norm, H);
    std::vector<double> after(B * H * N), seen(B * C * H);
    for (int64_t b = 0; b < B; b++)
      for (int64_t h = 0; h < H; h++) {
        for (int64_t n = 0; n < N; n++)
          after[(b * H + h) * N + n] =
              double(A[h * N + n]) * state[i][(b * H + h) * N + n] + double(in[h * N + n]) * u[b * H + h];
        for (int64_t c = 0; c < C; c++) {
          double sum = double(D[c * H + h]) * u[b * H + h];
          for (int64_t n = 0; n < N; n++) sum += double(out[(c * H + h) * N + n]) * after[(b * H + h) * N + n];
          seen[(b * C + c) * H + h] = activated(activation, sum);
        }
      }
    compare("lti_stack next", next[i], after);
    for (int64_t b = 0; b < B; b++) {
      std::vector<double> sums(outputs);
      for (int64_t o = 0; o < outputs; o++) {
        if (!mapped) sums[o] = seen[b * H + o];
        for (int64_t k = 0; k < C * H && mapped; k++) sums[o] += double(weight[o * C * H + k]) * seen[b * C * H + k];
        if (mapped && !gated) sums[o] += bias[o];
      }
      for (int64_t h = 0; h < H; h++) wide[b * H + h] += 0.5 * (gated ? sums[h] / (1 + std::exp(-sums[H + h])) : sums[h]);
    }
  }
  compare("lti_stack y", y, normal(wide, block.norm, H));
}

void selective_scan(const Size& size, int64_t groups, bool full) {
  const int64_t B = size.batch, L = size.length, E = size.features * groups, N = size.states;
  const int64_t tiles = longstate_selective_tiles(E, groups), block = longstate_selective_block();
  std::vector<float> u = draw(B * L * E), dt = draw(B * L * E), z = draw(B * L * E), A = draw(E * N, -2.f, -0.1f);
  std::vector<float> in = draw(B * L * groups * N), out = draw(B * L * groups * N), D = draw(E), bias = draw(E);
  std::vector<float> state = draw(B * E * N);
  const std::vector<int64_t> lengths = some_lengths(size);
  std::vector<uint8_t> starts(B * L);
  for (uint8_t& start : starts) start = source() % 8 == 0;
  std::vector<float> grad_y = draw(B * L * E), grad_final = draw(B * E * N);

  auto plain = [&](std::vector<double>& y, std::vector<double>& end) {
    y.assign(B * L * E, 0);
    end.assign(B * E * N, 0);
    for (int64_t b = 0; b < B; b++)
      for (int64_t e = 0; e < E; e++) {
        std::vector<double> h(N);
        for (int64_t n = 0; n < N; n++) h[n] = full ? state[(b * E + e) * N + n] : 0;
        for (int64_t t = 0; t < lengths[b]; t++) {
          const int64_t place = (b * L + t) * E + e, vector = ((b * L + t) * groups + e / size.features) * N;
          const double step = std::log1p(std::exp(dt[place] + (full ? bias[e] : 0)));
          double sum = full ? double(D[e]) * u[place] : 0;
          for (int64_t n = 0; n < N; n++) {
            if (starts[b * L + t]) h[n] = 0;
            h[n] = std::exp(step * A[e * N + n]) * h[n] + step * u[place] * in[vector + n];
            sum += h[n] * out[vector + n];
          }
          y[place] = full ? sum * z[place] / (1 + std::exp(-double(z[place]))) : sum;
        }
        for (int64_t n = 0; n < N; n++) end[(b * E + e) * N + n] = h[n];
      }
  };
  auto loss = [&]() {
    std::vector<double> y, end;
    plain(y, end);
    return sum_of(y, grad_y) + sum_of(end, grad_final);
  };

  std::vector<float> y = unwritten(B * L * E), final_state = unwritten(B * E * N);
  std::vector<float> borders = unwritten(B * ((L + block - 1) / block) * E * N);
  std::vector<float> grad_u = unwritten(u.size()), grad_dt = unwritten(u.size()), grad_z = unwritten(u.size());
  std::vector<float> grad_A = unwritten(B * E * N), grad_D = unwritten(B * E), grad_bias = unwritten(B * E);
  std::vector<float> grad_B = unwritten(tiles * B * L * N), grad_C = unwritten(tiles * B * L * N);
  std::vector<float> grad_state = unwritten(B * E * N);
  SelectiveScan p{};
  p.batch = B, p.length = L, p.channels = E, p.states = N, p.groups = groups, p.softplus = 1;
  p.u = {u.data(), L * E, E}, p.dt = {dt.data(), L * E, E};
  p.B = {in.data(), L * groups * N, groups * N}, p.C = {out.data(), L * groups * N, groups * N};
  p.A = A.data(), p.lengths = lengths.data(), p.starts = starts.data();
  if (full) p.z = {z.data(), L * E, E}, p.D = D.data(), p.dt_bias = bias.data(), p.state = state.data();
  p.y = y.data(), p.final_state = final_state.data(), p.borders = borders.data();
  p.grad_y = grad_y.data(), p.grad_final = grad_final.data(), p.grad_u = grad_u.data(), p.grad_dt = grad_dt.data();
  p.grad_z = grad_z.data(), p.grad_A = grad_A.data(), p.grad_D = grad_D.data(), p.grad_bias = grad_bias.data();
  p.grad_B = grad_B.data(), p.grad_C = grad_C.data(), p.grad_state = grad_state.data();
  longstate_selective_scan(&p, nullptr);
  longstate_selective_scan_backward(&p, nullptr);

  std::vector<double> seen, end;
  plain(seen, end);
  compare("selective_scan y", y, seen);
  compare("selective_scan final_state", final_state, end);
  auto over_rows = [&](const std::vector<float>& all) {
    std::vector<float> sum(all.size() / B);
    for (size_t i = 0; i < all.size(); i++) sum[i % sum.size()] += all[i];
    return sum;
  };
  auto over_tiles = [&](const std::vector<float>& all) {
    std::vector<float> sum(B * L * groups * N);
    for (int64_t tile = 0; tile < tiles; tile++)
      for (int64_t place = 0; place < B * L; place++)
        for (int64_t n = 0; n < N; n++)
          sum[(place * groups + tile / (tiles / groups)) * N + n] += all[(tile * B * L + place) * N + n];
    return sum;
  };
  compare_slope("selective_scan grad_u", u, grad_u, loss);
  compare_slope("selective_scan grad_dt", dt, grad_dt, loss);
  compare_slope("selective_scan grad_A", A, over_rows(grad_A), loss);
  compare_slope("selective_scan grad_B", in, over_tiles(grad_B), loss);
  compare_slope("selective_scan grad_C", out, over_tiles(grad_C), loss);
  if (!full) return;
  compare_slope("selective_scan grad_z", z, grad_z, loss);
  compare_slope("selective_scan grad_D", D, over_rows(grad_D), loss);
  compare_slope("selective_scan grad_bias", bias, over_rows(grad_bias), loss);
  compare_slope("selective_scan grad_state", state, grad_state, loss);
}

// y = W x + b in double, for x of one row.
std::vector<double> map(const std::vector<float>& W, const std::vector<float>& b, const std::vector<double>& x) {
  std::vector<double> y(W.size() / x.size());
  for (size_t i = 0; i < y.size(); i++) {
    y[i] = b.empty() ? 0 : b[i];
    for (size_t k = 0; k < x.size(); k++) y[i] += double(W[i * x.size() + k]) * x[k];
  }
  return y;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

void normalise(std::vector<double>& x, size_t first, size_t count, const std::vector<float>& weight, double eps) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += x[first + i] * x[first + i];
  for (size_t i = 0; i < count; i++) x[first + i] *= (weight.empty() ? 1 : weight[i]) / std::sqrt(sum / count + eps);
}

const float* data(const std::vector<float>& x) { return x.empty() ? nullptr : x.data(); }

void linear_step(int64_t batch, int64_t inputs, int64_t outputs, bool full) {
  const std::vector<float> x = draw(batch * inputs), W = draw(outputs * inputs), b = draw(full ? outputs : 0);
  std::vector<float> y = unwritten(batch * outputs);
  const LinearStep p{batch, inputs, outputs, x.data(), W.data(), data(b), y.data()};
  longstate_linear_step(&p, nullptr);
  for (int64_t row = 0; row < batch; row++) {
    const std::vector<double> in(x.begin() + row * inputs, x.begin() + (row + 1) * inputs);
    compare("linear_step y", {y.begin() + row * outputs, y.begin() + (row + 1) * outputs}, map(W, b, in));
  }
}

void gelu_map(int64_t rows, int64_t features, int64_t width, GateKind kind, bool full) {
  const int64_t n = kind == kGLU || kind == kLinear ? width : features, maps = kind == kGLU ? 2 * n : n, parts = full ? 3 : 1;
  std::vector<float> y = draw(rows * features, -4.f, 4.f), weight = draw(maps * features), bias = draw(full ? maps : 0);
  const std::vector<float> grad_out = draw(rows * n);
  auto activated = [&](double x) {
    if (full) return x / (1 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));
    return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  };
  auto plain = [&]() {
    std::vector<double> out(rows * n);
    for (int64_t r = 0; r < rows; r++) {
      std::vector<double> g(features);
      for (int64_t k = 0; k < features; k++) g[k] = activated(y[r * features + k]);
      const std::vector<double> h = map(weight, bias, g);
      for (int64_t j = 0; j < n; j++) {
        const double value = kind == kHalfGLU1 ? g[j] : kind == kHalfGLU2 ? y[r * features + j] : h[j];
        out[r * n + j] = kind == kLinear ? value : value / (1 + std::exp(-h[kind == kGLU ? n + j : j]));
      }
    }
    return out;
  };
  auto loss = [&]() { return sum_of(plain(), grad_out); };
  std::vector<float> out = unwritten(rows * n), gate = unwritten(rows * n), grad_y = unwritten(y.size());
  std::vector<float> grad_weight = unwritten(parts * weight.size()), grad_bias = unwritten(parts * bias.size());
  GELUMap p{};
  p.rows = rows, p.features = features, p.outputs = n, p.parts = parts, p.kind = kind, p.tanh = full;
  p.y = y.data(), p.weight = weight.data(), p.bias = data(bias), p.out = out.data();
  p.gate = kind == kLinear ? nullptr : gate.data();
  p.grad_out = grad_out.data(), p.grad_y = grad_y.data(), p.grad_weight = grad_weight.data();
  p.grad_bias = full ? grad_bias.data() : nullptr;
  longstate_gelu_map(&p, nullptr);
  longstate_gelu_map_backward(&p, nullptr);
  compare("gelu_map out", out, plain());
  auto over_parts = [&](const std::vector<float>& all) {
    std::vector<float> sum(all.size() / parts);
    for (size_t i = 0; i < all.size(); i++) sum[i % sum.size()] += all[i];
    return sum;
  };
  compare_slope("gelu_map grad_y", y, grad_y, loss);
  compare_slope("gelu_map grad_weight", weight, over_parts(grad_weight), loss);
  if (full) compare_slope("gelu_map grad_bias", bias, over_parts(grad_bias), loss);
}

void dropout(int64_t count, uint32_t threshold) {
  const std::vector<float> x = draw(count, 1.f, 2.f);
  std::vector<float> y = unwritten(count);
  const Dropout p{count, 1234567890123456789u, threshold, 3.f, x.data(), y.data()};
  longstate_dropout(&p, nullptr);
  double dropped = 0;
  for (int64_t i = 0; i < count; i++) {
    dropped += y[i] == 0.f;
    if (y[i] != 0.f) expect("dropout y", y[i], 3.f * x[i], 1);
  }
  const double share = threshold / 65536.0;
  expect("dropout share", dropped, share * count, 1e4 * 5 * std::sqrt(share * (1 - share) * count));
}

// Two branches after each other, or one bare layer.
void mamba_steps(int64_t batch, int64_t width, int64_t E, int64_t N, int64_t taps, int64_t R, bool full) {
  const int64_t count = full ? 2 : 1, size = (taps - 1) * E;
  struct Layer {
    std::vector<float> norm, into, into_bias, filter, filter_bias, vectors, r, B, C, dt, dt_bias, A, D, out, out_bias;
    std::vector<float> tail, state, next_tail, next, y;
  };
  const std::vector<float> x = draw(batch * width), rates = draw(full ? 0 : batch, 0.5f, 2.f);
  std::vector<Layer> layers(count);
  std::vector<MambaStep> steps(count);
  for (int64_t i = 0; i < count; i++) {
    Layer& l = layers[i];
    const int64_t some = full ? 1 : 0;
    l.norm = draw(some * width), l.into = draw(2 * E * width), l.into_bias = draw(some * 2 * E);
    l.filter = draw(E * taps), l.filter_bias = draw(some * E), l.vectors = draw((R + 2 * N) * E), l.r = draw(some * R);
    l.B = draw(some * N), l.C = draw(some * N), l.dt = draw(E * R), l.dt_bias = draw(E), l.A = draw(E * N, -2.f, -.1f);
    l.D = draw(E), l.out = draw(width * E), l.out_bias = draw(some * width);
    l.tail = draw(batch * size), l.state = draw(batch * E * N);
    l.next_tail = unwritten(batch * size), l.next = unwritten(batch * E * N), l.y = unwritten(batch * width);
    MambaStep& p = steps[i] = MambaStep{};
    p.batch = batch, p.width = width, p.channels = E, p.states = N, p.taps = taps, p.rank = R;
    p.branch = full, p.norm = data(l.norm), p.norm_eps = 1e-3f, p.scale = 0.5f, p.norms = full, p.eps = 1e-2f;
    p.rate = 1.5f, p.rates = data(rates), p.x = i ? layers[i - 1].y.data() : x.data(), p.tail = l.tail.data();
    p.state = l.state.data(), p.into = l.into.data(), p.into_bias = data(l.into_bias), p.filter = l.filter.data();
    p.filter_bias = data(l.filter_bias), p.vectors = l.vectors.data(), p.norm_r = data(l.r), p.norm_B = data(l.B);
    p.norm_C = data(l.C), p.dt = l.dt.data(), p.dt_bias = l.dt_bias.data(), p.A = l.A.data(), p.D = l.D.data();
    p.out = l.out.data(), p.out_bias = data(l.out_bias), p.y = l.y.data();
    p.next_tail = l.next_tail.data(), p.next = l.next.data();
  }
  longstate_mamba_steps(steps.data(), count, nullptr);
  for (int64_t row = 0; row < batch; row++) {
    std::vector<double> u(x.begin() + row * width, x.begin() + (row + 1) * width);
    for (Layer& l : layers) {
      std::vector<double> in = u, tail(size), next(E * N), inner(E);
      if (full) normalise(in, 0, width, l.norm, 1e-3f);
      const std::vector<double> xz = map(l.into, l.into_bias, in);
      for (int64_t e = 0; e < E; e++) {
        inner[e] = l.filter_bias.empty() ? 0 : l.filter_bias[e];
        for (int64_t k = 0; k < taps; k++) {
          const double value = k + 1 < taps ? l.tail[row * size + k * E + e] : xz[e];
          inner[e] += l.filter[e * taps + k] * value;
          if (k > 0) tail[(k - 1) * E + e] = value;
        }
        inner[e] = silu(inner[e]);
      }
      std::vector<double> rbc = map(l.vectors, {}, inner);
      if (full) normalise(rbc, 0, R, l.r, 1e-2f), normalise(rbc, R, N, l.B, 1e-2f), normalise(rbc, R + N, N, l.C, 1e-2f);
      const std::vector<double> dt = map(l.dt, l.dt_bias, {rbc.begin(), rbc.begin() + R});
      for (int64_t e = 0; e < E; e++) {
        const double step = (full ? 1.5 : rates[row]) * std::log1p(std::exp(dt[e]));
        double sum = l.D[e] * inner[e];
        for (int64_t n = 0; n < N; n++) {
          const double before = l.state[(row * E + e) * N + n];
          next[e * N + n] = std::exp(step * l.A[e * N + n]) * before + step * inner[e] * rbc[R + n];
          sum += rbc[R + N + n] * next[e * N + n];
        }
        inner[e] = sum * silu(xz[E + e]);
      }
      const std::vector<double> y = map(l.out, l.out_bias, inner);
      for (int64_t i = 0; i < width; i++) u[i] = full ? u[i] + 0.5 * y[i] : y[i];
      compare("mamba_steps y", {l.y.begin() + row * width, l.y.begin() + (row + 1) * width}, u);
      compare("mamba_steps tail", {l.next_tail.begin() + row * size, l.next_tail.begin() + (row + 1) * size}, tail);
      compare("mamba_steps state", {l.next.begin() + row * E * N, l.next.begin() + (row + 1) * E * N}, next);
    }
  }
}

// Two branches after each other, or one bare layer; G groups of two heads of P channels.
void mamba2_steps(int64_t batch, int64_t width, int64_t G, int64_t P, int64_t N, int64_t taps, Gate gate, bool full) {
  const int64_t count = full ? 2 : 1, H = 2 * G, E = H * P, filtered = E + 2 * G * N, size = (taps - 1) * filtered;
  struct Layer {
    std::vector<float> norm, into, into_bias, filter, filter_bias, dt_bias, A, D, norm_y, out, out_bias;
    std::vector<float> tail, state, next_tail, next, y;
  };
  const std::vector<float> x = draw(batch * width), rates = draw(full ? 0 : batch, 0.5f, 2.f);
  std::vector<Layer> layers(count);
  std::vector<Mamba2Step> steps(count);
  const int64_t some = full ? 1 : 0, entering = E + filtered + H;
  for (int64_t i = 0; i < count; i++) {
    Layer& l = layers[i];
    l.norm = draw(some * width), l.into = draw(entering * width), l.into_bias = draw(some * entering);
    l.filter = draw(filtered * taps), l.filter_bias = draw(some * filtered), l.dt_bias = draw(H);
    l.A = draw(H, -2.f, -.1f), l.D = draw(full ? E : H), l.norm_y = draw(gate == kGateOnly ? 0 : E);
    l.out = draw(width * E), l.out_bias = draw(some * width), l.tail = draw(batch * size), l.state = draw(batch * E * N);
    l.next_tail = unwritten(batch * size), l.next = unwritten(batch * E * N), l.y = unwritten(batch * width);
    Mamba2Step& p = steps[i] = Mamba2Step{};
    p.batch = batch, p.width = width, p.heads = H, p.head_width = P, p.states = N, p.groups = G, p.taps = taps;
    p.branch = full, p.norm = data(l.norm), p.norm_eps = 1e-3f, p.scale = 0.5f, p.gate = gate, p.D_each = full;
    p.eps = 1e-2f, p.floor = full ? 0.6f : 0.f, p.ceiling = full ? 0.9f : HUGE_VALF, p.rate = 1.5f;
    p.x = i ? layers[i - 1].y.data() : x.data(), p.tail = l.tail.data(), p.state = l.state.data();
    p.rates = data(rates), p.into = l.into.data(), p.into_bias = data(l.into_bias), p.filter = l.filter.data();
    p.filter_bias = data(l.filter_bias), p.dt_bias = l.dt_bias.data(), p.A = l.A.data(), p.D = l.D.data();
    p.norm_y = data(l.norm_y), p.out = l.out.data(), p.out_bias = data(l.out_bias), p.y = l.y.data();
    p.next_tail = l.next_tail.data(), p.next = l.next.data();
  }
  longstate_mamba2_steps(steps.data(), count, nullptr);
  for (int64_t row = 0; row < batch; row++) {
    std::vector<double> u(x.begin() + row * width, x.begin() + (row + 1) * width);
    for (Layer& l : layers) {
      std::vector<double> in = u, tail(size), next(E * N), inner(filtered), seen(E);
      if (full) normalise(in, 0, width, l.norm, 1e-3f);
      const std::vector<double> into = map(l.into, l.into_bias, in);
      for (int64_t e = 0; e < filtered; e++) {
        inner[e] = l.filter_bias.empty() ? 0 : l.filter_bias[e];
        for (int64_t k = 0; k < taps; k++) {
          const double value = k + 1 < taps ? l.tail[row * size + k * filtered + e] : into[E + e];
          inner[e] += l.filter[e * taps + k] * value;
          if (k > 0) tail[(k - 1) * filtered + e] = value;
        }
        inner[e] = silu(inner[e]);
      }
      for (int64_t e = 0; e < E; e++) {
        const int64_t head = e / P, B = E + head / 2 * N, C = B + G * N;
        double step = std::log1p(std::exp(into[E + filtered + head] + l.dt_bias[head]));
        if (full) step = std::fmin(std::fmax(step, 0.6f), 0.9f);
        step *= full ? 1.5 : rates[row];
        seen[e] = l.D[full ? e : head] * inner[e];
        for (int64_t n = 0; n < N; n++) {
          const double before = l.state[(row * E + e) * N + n];
          next[e * N + n] = std::exp(step * l.A[head]) * before + step * inner[e] * inner[B + n];
          seen[e] += inner[C + n] * next[e * N + n];
        }
        if (gate != kNormFirst) seen[e] *= silu(into[e]);
      }
      for (int64_t g = 0; g < G && gate != kGateOnly; g++) {
        const auto first = l.norm_y.begin() + g * 2 * P;
        normalise(seen, g * 2 * P, 2 * P, {first, first + 2 * P}, 1e-2f);
      }
      for (int64_t e = 0; e < E && gate == kNormFirst; e++) seen[e] *= silu(into[e]);
      const std::vector<double> y = map(l.out, l.out_bias, seen);
      for (int64_t i = 0; i < width; i++) u[i] = full ? u[i] + 0.5 * y[i] : y[i];
      compare("mamba2_steps y", {l.y.begin() + row * width, l.y.begin() + (row + 1) * width}, u);
      compare("mamba2_steps tail", {l.next_tail.begin() + row * size, l.next_tail.begin() + (row + 1) * size}, tail);
      compare("mamba2_steps state", {l.next.begin() + row * E * N, l.next.begin() + (row + 1) * E * N}, next);
    }
  }
}

void causal_conv1d(const Size& size, int64_t W, bool full) {
  const int64_t B = size.batch, L = size.length, E = size.features;
  std::vector<float> x = draw(B * L * E), weight = draw(W * E), bias = draw(E), tail = draw(B * (W - 1) * E);
  const std::vector<int64_t> lengths = some_lengths(size);
  std::vector<uint8_t> starts(B * L);
  for (uint8_t& start : starts) start = full && source() % 8 == 0;
  std::vector<float> grad_y = draw(B * L * E);
  auto plain = [&]() {
    std::vector<double> y(B * L * E);
    for (int64_t b = 0; b < B; b++) {
      int64_t start = 1 - W;
      for (int64_t t = 0; t < lengths[b]; t++) {
        if (starts[b * L + t]) start = t;
        for (int64_t e = 0; e < E; e++) {
          double sum = full ? bias[e] : 0;
          for (int64_t k = 0; k < W; k++) {
            const int64_t s = t - (W - 1) + k;
            if (s < start) continue;
            sum += double(weight[k * E + e]) * (s < 0 ? tail[(b * (W - 1) + W - 1 + s) * E + e] : x[(b * L + s) * E + e]);
          }
          y[(b * L + t) * E + e] = full ? sum / (1 + std::exp(-sum)) : sum;
        }
      }
    }
    return y;
  };
  auto loss = [&]() { return sum_of(plain(), grad_y); };
  std::vector<float> y = unwritten(x.size()), grad_x = unwritten(x.size()), grad_tail = unwritten(tail.size());
  std::vector<float> grad_weight = unwritten(B * W * E), grad_bias = unwritten(B * E);
  CausalConv1d p{};
  p.batch = B, p.length = L, p.features = E, p.taps = W, p.silu = full, p.x = {x.data(), L * E, E};
  p.weight = weight.data(), p.bias = full ? bias.data() : nullptr, p.tail = tail.data(), p.lengths = lengths.data();
  p.starts = full ? starts.data() : nullptr;
  p.y = y.data(), p.grad_y = grad_y.data(), p.grad_x = grad_x.data(), p.grad_tail = grad_tail.data();
  p.grad_weight = grad_weight.data(), p.grad_bias = grad_bias.data();
  longstate_causal_conv1d(&p, nullptr);
  longstate_causal_conv1d_backward(&p, nullptr);
  compare("causal_conv1d y", y, plain());
  auto over_rows = [&](const std::vector<float>& all) {
    std::vector<float> sum(all.size() / B);
    for (size_t i = 0; i < all.size(); i++) sum[i % sum.size()] += all[i];
    return sum;
  };
  compare_slope("causal_conv1d grad_x", x, grad_x, loss);
  compare_slope("causal_conv1d grad_weight", weight, over_rows(grad_weight), loss);
  compare_slope("causal_conv1d grad_tail", tail, grad_tail, loss);
  if (full) compare_slope("causal_conv1d grad_bias", bias, over_rows(grad_bias), loss);
}

void linear_scan(const Size& size, Carry kind, bool shared, bool full) {
  const int64_t B = size.batch, L = size.length, P = size.features;
  const int64_t count = kind == kReal ? 1 : 2, planes = kind == kReal ? 1 : kind == kComplex ? 2 : 4;
  // The numbers of a transition are exact in both types.
  std::vector<float> a = draw((shared ? 1 : B * L) * P * planes, -0.6f, 0.6f), b = draw(B * L * P * count);
  std::vector<float> state = draw(B * P * count);
  const std::vector<int64_t> lengths = some_lengths(size);
  std::vector<uint8_t> starts(B * L);
  for (uint8_t& start : starts) start = source() % 8 == 0;
  const std::vector<float> grad_h = draw(b.size()), grad_final = draw(state.size());

  auto plain = [&](std::vector<double>& h, std::vector<double>& end) {
    h.assign(b.size(), 0);
    end.assign(state.size(), 0);
    for (int64_t row = 0; row < B; row++)
      for (int64_t c = 0; c < P; c++) {
        double x[2] = {};
        for (int64_t n = 0; n < count; n++) x[n] = full ? state[(row * P + c) * count + n] : 0;
        for (int64_t t = 0; t < lengths[row]; t++) {
          const float *m = &a[((shared ? 0 : row * L + t) * P + c) * planes], *in = &b[((row * L + t) * P + c) * count];
          if (full && starts[row * L + t]) x[0] = x[1] = 0;
          const double x0 = x[0], x1 = x[1];
          x[0] = m[0] * x0 + in[0];
          if (kind == kComplex) x[0] -= m[1] * x1, x[1] = m[1] * x0 + m[0] * x1 + in[1];
          if (kind == kDense) x[0] += m[1] * x1, x[1] = m[2] * x0 + m[3] * x1 + in[1];
          for (int64_t n = 0; n < count; n++) h[((row * L + t) * P + c) * count + n] = x[n];
        }
        for (int64_t n = 0; n < count; n++) end[(row * P + c) * count + n] = x[n];
      }
  };
  auto loss = [&]() {
    std::vector<double> h, end;
    plain(h, end);
    return sum_of(h, grad_h) + sum_of(end, grad_final);
  };

  const std::vector<double> constant(a.begin(), a.end());
  std::vector<float> h = unwritten(b.size()), final_state = unwritten(state.size());
  std::vector<float> grad_a = unwritten(a.size()), grad_b = unwritten(b.size()), grad_state = unwritten(state.size());
  std::vector<double> grad_shared(shared ? B * a.size() : 0, NAN);
  LinearScan p{};
  p.batch = B, p.length = L, p.channels = P, p.kind = kind;
  if (shared) p.shared = constant.data(), p.grad_shared = grad_shared.data();
  if (!shared) p.a = {a.data(), L * P * planes, P * planes}, p.grad_a = grad_a.data();
  p.b = {b.data(), L * P * count, P * count}, p.lengths = lengths.data();
  if (full) p.state = state.data(), p.starts = starts.data();
  p.h = h.data(), p.final_state = final_state.data();
  p.grad_h = grad_h.data(), p.grad_final = grad_final.data(), p.grad_b = grad_b.data(), p.grad_state = grad_state.data();
  longstate_linear_scan(&p, nullptr);
  longstate_linear_scan_backward(&p, nullptr);

  std::vector<double> seen, end;
  plain(seen, end);
  compare("linear_scan h", h, seen);
  compare("linear_scan final_state", final_state, end);
  if (shared) {
    std::fill(grad_a.begin(), grad_a.end(), 0.f);
    for (size_t i = 0; i < grad_shared.size(); i++) grad_a[i % a.size()] += static_cast<float>(grad_shared[i]);
  }
  compare_slope("linear_scan grad_a", a, grad_a, loss);
  compare_slope("linear_scan grad_b", b, grad_b, loss);
  if (full) compare_slope("linear_scan grad_state", state, grad_state, loss);
}

void ssd(const Size& size, int64_t groups, int64_t rank, bool full) {
  const int64_t B = size.batch, L = size.length, P = size.features, N = size.states, H = size.channels * groups;
  const int64_t block = 64 - 64 % rank, tiles = longstate_ssd_tiles(H, groups);
  std::vector<float> x = draw(B * L * H * P), weight = draw(B * L * H, 0.f, 1.f), l = draw(B * L * H, -0.5f, 0.f);
  std::vector<float> in = draw(B * L * groups * N), out = draw(B * L * groups * N), D = draw(H * P);
  std::vector<float> state = draw(B * H * P * N);
  const std::vector<int64_t> lengths = some_lengths(size);
  std::vector<uint8_t> starts(B * L);
  for (int64_t t = 0; t < B * L; t++) {
    const bool is_first = t % L % rank == 0;
    starts[t] = is_first && source() % 16 == 0;
    if (!is_first) l[t * H] = 0.f;
    for (int64_t h = 1; h < H && !is_first; h++) l[t * H + h] = 0.f;
  }
  const std::vector<float> grad_y = draw(B * L * H * P), grad_final = draw(B * H * P * N);

  auto plain = [&](std::vector<double>& y, std::vector<double>& end) {
    y.assign(B * L * H * P, 0);
    end.assign(B * H * P * N, 0);
    for (int64_t b = 0; b < B; b++)
      for (int64_t h = 0; h < H; h++) {
        std::vector<double> S(P * N);
        for (int64_t i = 0; i < P * N; i++) S[i] = full ? state[(b * H + h) * P * N + i] : 0;
        for (int64_t begin = 0; begin < lengths[b]; begin += rank) {
          const int64_t last = begin + rank < lengths[b] ? begin + rank : lengths[b];
          for (int64_t t = begin; t < last; t++) {
            const int64_t place = b * L + t, vector = (place * groups + h / size.channels) * N;
            const double kept = starts[place] ? 0 : std::exp(double(l[place * H + h]));
            const double scale = full ? weight[place * H + h] : 1.0;
            for (int64_t i = 0; i < P * N; i++)
              S[i] = kept * S[i] + scale * x[(place * H + h) * P + i / N] * in[vector + i % N];
          }
          for (int64_t t = begin; t < last; t++)
            for (int64_t k = 0; k < P; k++) {
              const int64_t place = ((b * L + t) * H + h) * P + k, vector = ((b * L + t) * groups + h / size.channels) * N;
              y[place] = full ? double(D[h * P + k]) * x[place] : 0;
              for (int64_t n = 0; n < N; n++) y[place] += S[k * N + n] * out[vector + n];
            }
        }
        for (int64_t i = 0; i < P * N; i++) end[(b * H + h) * P * N + i] = S[i];
      }
  };
  auto loss = [&]() {
    std::vector<double> y, end;
    plain(y, end);
    return sum_of(y, grad_y) + sum_of(end, grad_final);
  };

  std::vector<float> y = unwritten(x.size()), final_state = unwritten(state.size());
  std::vector<float> borders = unwritten(B * ((L + block - 1) / block) * H * N * P);
  std::vector<float> grad_x = unwritten(x.size()), grad_weight = unwritten(l.size()), grad_decay = unwritten(l.size());
  std::vector<float> grad_B = unwritten(tiles * B * L * N), grad_C = unwritten(tiles * B * L * N);
  std::vector<float> grad_D = unwritten(B * H * P), grad_state = unwritten(state.size());
  SSD p{};
  p.batch = B, p.length = L, p.heads = H, p.width = P, p.states = N, p.groups = groups, p.block = block, p.rank = rank;
  p.x = {x.data(), L * H * P, H * P}, p.log_decay = {l.data(), L * H, H};
  p.B = {in.data(), L * groups * N, groups * N}, p.C = {out.data(), L * groups * N, groups * N};
  p.lengths = lengths.data(), p.starts = starts.data();
  if (full) p.weight = {weight.data(), L * H, H}, p.D = D.data(), p.state = state.data();
  p.y = y.data(), p.final_state = final_state.data();
  longstate_ssd(&p, nullptr);
  p.borders = borders.data(), p.grad_y = grad_y.data(), p.grad_final = grad_final.data(), p.grad_x = grad_x.data();
  p.grad_weight = grad_weight.data(), p.grad_decay = grad_decay.data(), p.grad_B = grad_B.data();
  p.grad_C = grad_C.data(), p.grad_D = grad_D.data(), p.grad_state = grad_state.data();
  longstate_ssd(&p, nullptr);
  longstate_ssd_backward(&p, nullptr);

  std::vector<double> seen, end;
  plain(seen, end);
  compare("ssd y", y, seen);
  compare("ssd final_state", final_state, end);
  auto over_tiles = [&](const std::vector<float>& all) {
    std::vector<float> sum(B * L * groups * N);
    for (int64_t tile = 0; tile < tiles; tile++)
      for (int64_t place = 0; place < B * L; place++)
        for (int64_t n = 0; n < N; n++)
          sum[(place * groups + tile / (tiles / groups)) * N + n] += all[(tile * B * L + place) * N + n];
    return sum;
  };
  compare_slope("ssd grad_x", x, grad_x, loss);
  compare_slope("ssd grad_B", in, over_tiles(grad_B), loss);
  compare_slope("ssd grad_C", out, over_tiles(grad_C), loss);
  if (rank == 1) compare_slope("ssd grad_decay", l, grad_decay, loss);  // with more, only first steps may decay
  if (!full) return;
  std::vector<float> by_D(H * P);
  for (int64_t i = 0; i < B * H * P; i++) by_D[i % (H * P)] += grad_D[i];
  compare_slope("ssd grad_weight", weight, grad_weight, loss);
  compare_slope("ssd grad_D", D, by_D, loss);
  compare_slope("ssd grad_state", state, grad_state, loss);
}

void varying_scan(const Size& size, bool held, bool full) {
  const int64_t B = size.batch, L = size.length, H = size.features, N = size.states, C = size.channels;
  const int64_t block = longstate_varying_block(), tiles = (H + longstate_lanes() - 1) / longstate_lanes();
  std::vector<float> u = draw(B * L * H), rate = draw(B * L, 0.f, 2.f), z = draw(N * 2 * H, -1.f, -0.1f);
  std::vector<float> gain = draw(N * 2 * H), out = draw(C * N * 2 * H), state = draw(B * N * 2 * H);
  const std::vector<int64_t> lengths = some_lengths(size);
  std::vector<uint8_t> starts(B * L);
  for (uint8_t& start : starts) start = source() % 8 == 0;
  const std::vector<float> grad_y = draw(B * L * C * H), grad_final = draw(state.size());
  using complex = std::complex<double>;
  auto at = [&](const std::vector<float>& x, int64_t mode, int64_t h) {
    return complex(x[2 * mode * H + h], x[(2 * mode + 1) * H + h]);
  };

  auto plain = [&](std::vector<double>& y, std::vector<double>& end) {
    y.assign(B * L * C * H, 0);
    end.assign(state.size(), 0);
    for (int64_t b = 0; b < B; b++)
      for (int64_t h = 0; h < H; h++)
        for (int64_t n = 0; n < N; n++) {
          complex x = full ? at(state, b * N + n, h) : 0;
          for (int64_t t = 0; t < lengths[b]; t++) {
            const complex a = std::exp(double(rate[b * L + t]) * at(z, n, h));
            if (full && starts[b * L + t]) x = 0;
            x = a * x + (held ? a - 1.0 : 1.0) * at(gain, n, h) * double(u[(b * L + t) * H + h]);
            for (int64_t c = 0; c < C; c++) y[((b * L + t) * C + c) * H + h] += (at(out, c * N + n, h) * x).real();
          }
          end[(2 * (b * N + n)) * H + h] = x.real();
          end[(2 * (b * N + n) + 1) * H + h] = x.imag();
        }
  };
  auto loss = [&]() {
    std::vector<double> y, end;
    plain(y, end);
    return sum_of(y, grad_y) + sum_of(end, grad_final);
  };

  std::vector<float> y = unwritten(B * L * C * H), final_state = unwritten(state.size());
  std::vector<float> borders = unwritten((L + block - 1) / block * state.size());
  std::vector<float> grad_u = unwritten(u.size()), grad_rate = unwritten(tiles * B * L);
  std::vector<float> grad_z = unwritten(B * z.size()), grad_gain = unwritten(B * z.size());
  std::vector<float> grad_C = unwritten(B * out.size()), grad_state = unwritten(state.size());
  VaryingScan p{};
  p.batch = B, p.length = L, p.features = H, p.channels = C, p.modes = N, p.held = held, p.u = {u.data(), L * H, H};
  p.rate = rate.data(), p.z = z.data(), p.gain = gain.data(), p.C = out.data(), p.lengths = lengths.data();
  if (full) p.state = state.data(), p.starts = starts.data();
  p.y = y.data(), p.final_state = final_state.data(), p.borders = borders.data();
  p.grad_y = grad_y.data(), p.grad_final = grad_final.data(), p.grad_u = grad_u.data(), p.grad_rate = grad_rate.data();
  p.grad_z = grad_z.data(), p.grad_gain = grad_gain.data(), p.grad_C = grad_C.data(), p.grad_state = grad_state.data();
  longstate_varying_scan(&p, nullptr);
  longstate_varying_scan_backward(&p, nullptr);

  std::vector<double> seen, end;
  plain(seen, end);
  compare("varying_scan y", y, seen);
  compare("varying_scan final_state", final_state, end);
  auto summed = [&](const std::vector<float>& all, int64_t parts) {
    std::vector<float> sum(all.size() / parts);
    for (size_t i = 0; i < all.size(); i++) sum[i % sum.size()] += all[i];
    return sum;
  };
  compare_slope("varying_scan grad_u", u, grad_u, loss);
  compare_slope("varying_scan grad_rate", rate, summed(grad_rate, tiles), loss);
  compare_slope("varying_scan grad_z", z, summed(grad_z, B), loss);
  compare_slope("varying_scan grad_gain", gain, summed(grad_gain, B), loss);
  compare_slope("varying_scan grad_C", out, summed(grad_C, B), loss);
  if (full) compare_slope("varying_scan grad_state", state, grad_state, loss);
}

}  // namespace

int main() {
  for (Carry kind : {kReal, kComplex, kDense}) {
    const int64_t even = kind == kComplex ? 6 : 5;
    for (const Size& size : {Size{3, 1, 1, even, 1}, Size{3, 7, 5, even, 2}, Size{2, 8, 16, 2, 1},
                             Size{4, 301, 19, even, 2}, Size{1, 129, 33, 10, 1}, Size{21, 20, 5, even, 1},
                             Size{9, 150, 17, even, 2}}) {
      lti_scan(size, kind);
      lti_step(size, kind);
    }
  }
  for (const Size& size : {Size{0, 0, 1, 2, 1}, Size{0, 0, 5, 6, 2}, Size{0, 0, 19, 8, 1}}) {
    lti_factors(size, kReal, 0);
    lti_factors(size, kComplex, 0);
    for (int64_t rank : {0, 1, 3}) lti_factors(size, kDense, rank);
  }
  error_function();
  functions_of_lanes();
  for (const Size& size : {Size{1, 0, 1, 1, 1}, Size{3, 0, 7, 5, 2}, Size{2, 0, 37, 16, 3}})
    for (int32_t norm : {kNoNorm, kLayerNorm, kRMSNorm})
      for (int32_t activation : {kIdentity, kGelu, kGeluTanh}) {
        lti_stack(size, norm, activation, false, false);
        lti_stack(size, norm, activation, true, false);
        lti_stack(size, norm, activation, true, true);
      }
  for (const Size& size : {Size{3, 1, 1, 1, 1}, Size{3, 33, 5, 3, 1}, Size{2, 70, 67, 16, 1}})
    for (int64_t groups : {1, 2})
      for (bool full : {false, true}) selective_scan(size, groups, full);
  for (const Size& size : {Size{3, 1, 1, 0, 0}, Size{3, 9, 5, 0, 0}, Size{2, 21, 261, 0, 0}})
    for (int64_t W : {1, 2, 4, 7})
      for (bool full : {false, true}) causal_conv1d(size, W, full);
  for (const Size& size : {Size{3, 1, 1, 0, 0}, Size{3, 9, 5, 0, 0}, Size{2, 21, 67, 0, 0}})
    for (Carry kind : {kReal, kComplex, kDense})
      for (bool shared : {false, true})
        for (bool full : {false, true}) linear_scan(size, kind, shared, full);
  for (const Size& size : {Size{3, 1, 1, 1, 1}, Size{3, 33, 5, 3, 2}, Size{2, 150, 17, 18, 7}})
    for (int64_t groups : {1, 2})
      for (bool full : {false, true}) ssd(size, groups, 1, full);
  for (int64_t rank : {3, 4}) ssd({3, 25 * rank, 5, 3, 2}, 2, rank, true);
  for (const Size& size : {Size{3, 1, 1, 1, 1}, Size{3, 9, 5, 2, 2}, Size{2, 37, 19, 3, 1}})
    for (bool held : {false, true})
      for (bool full : {false, true}) varying_scan(size, held, full);
  for (int64_t count : {1, 127, 16384, 100001})
    for (uint32_t threshold : {0, 6554, 32768, 65536}) dropout(count, threshold);
  for (GateKind kind : {kGLU, kHalfGLU1, kHalfGLU2, kLinear})
    for (bool full : {false, true}) {
      gelu_map(1, 1, 1, kind, full);
      gelu_map(5, 7, 3, kind, full);
      gelu_map(101, 70, 35, kind, full);
      gelu_map(299, 19, 9, kind, full);
      gelu_map(2, 150, 40, kind, full);
    }
  for (int64_t batch : {1, 3, 9})
    for (bool full : {false, true}) {
      linear_step(batch, 1, 1, full);
      linear_step(batch, 37, 13, full);
      mamba_steps(batch, 1, 1, 1, 1, 1, full);
      mamba_steps(batch, 9, 18, 5, 4, 3, full);
      mamba_steps(batch, 24, 70, 16, 3, 33, full);
      for (Gate gate : {kGateOnly, kGateFirst, kNormFirst}) {
        mamba2_steps(batch, 1, 1, 1, 1, 1, gate, full);
        mamba2_steps(batch, 9, 3, 5, 7, 4, gate, full);
        mamba2_steps(batch, 24, 1, 33, 18, 3, gate, full);
      }
    }
  std::printf("%s: %d failures\n", longstate_isa(), failures);
  return failures != 0;
}
