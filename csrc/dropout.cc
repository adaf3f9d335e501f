// Dropout by numbers that are a function of the seed and of the place, so that the backward pass draws them again and no
// mask is kept; compiled once for every instruction set.
//
//   y_i = scale x_i if bits_i >= threshold, else 0 x_i
//
// Sixteen bits an element from Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3,
// SC 2011, section 3.3), a counter for eight elements: a group of kGroup elements takes word w / 2 of its 16 counters for
// its run w of 16, the lower half of the word first.
#include <cstdint>

#include "longstate.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

namespace {

constexpr int kRun = 16, kRuns = 8, kGroup = kRun * kRuns;
constexpr int64_t kTask = 128;  // groups

struct Words {
  uint32_t w[4];
};

inline Words philox(uint64_t counter, uint64_t seed) {
  uint32_t a = static_cast<uint32_t>(counter), b = static_cast<uint32_t>(counter >> 32), c = 0, d = 0;
  uint32_t key = static_cast<uint32_t>(seed), other = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t left = uint64_t{0xD2511F53u} * a, right = uint64_t{0xCD9E8D57u} * c;
    a = static_cast<uint32_t>(right >> 32) ^ b ^ key;
    b = static_cast<uint32_t>(right);
    c = static_cast<uint32_t>(left >> 32) ^ d ^ other;
    d = static_cast<uint32_t>(left);
    key += 0x9E3779B9u;
    other += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

void draw(uint64_t group, uint64_t seed, uint32_t* bits) {
#pragma omp simd
  for (int i = 0; i < kRun; i++) {
    const Words found = philox(group * kRun + i, seed);
    for (int w = 0; w < 4; w++) {
      bits[2 * w * kRun + i] = found.w[w] & 0xFFFFu;
      bits[(2 * w + 1) * kRun + i] = found.w[w] >> 16;
    }
  }
}

void thin(const float* x, const uint32_t* bits, uint32_t threshold, float scale, int64_t count, float* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) y[i] = x[i] * (bits[i] >= threshold ? scale : 0.f);
}

}  // namespace

extern "C" {

int64_t JOIN(longstate_dropout_task_, ISA)() { return kTask * kGroup; }

// A task is kTask groups of elements.
void JOIN(longstate_dropout_, ISA)(const Dropout* p, int64_t begin, int64_t end) {
  uint32_t bits[kGroup];
  for (int64_t group = begin * kTask; group < end * kTask && group * kGroup < p->count; group++) {
    const int64_t first = group * kGroup, left = p->count - first;
    draw(static_cast<uint64_t>(group), p->seed, bits);
    thin(p->x + first, bits, p->threshold, p->scale, left < kGroup ? left : kGroup, p->y + first);
  }
}
}
