// Tails that grow neuron by neuron, and how their norms change: what kernels/cpu/walk.py calls.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace {

// The norm of tail + amount * column, which becomes the tail.
inline float grown(float* tail, float amount, const float* column, int64_t d_h) {
  Floats even{}, odd{};
  int64_t at = 0;
  const auto grow = [&](int64_t from) {
    Floats lanes = load(tail + from) + load(column + from) * amount;
    std::memcpy(tail + from, &lanes, sizeof lanes);
    return lanes;
  };
  for (; at + 2 * LANES <= d_h; at += 2 * LANES) {
    const Floats first = grow(at), second = grow(at + LANES);
    even += first * first;
    odd += second * second;
  }
  float rest = 0;
  for (; at < d_h; ++at) {
    tail[at] += column[at] * amount;
    rest += tail[at] * tail[at];
  }
  return std::sqrt(sum(even + odd) + rest);
}

}  // namespace

extern "C" {

// tails (tokens, d_h); starts (tokens + 1,): token t adds steps starts[t] to starts[t + 1], each a
// neuron's row of columns (d_f, d_h) times an amount; rises: by how much each step changes the norm.
void walk_tails(const float* tails, const int64_t* starts, const int64_t* neurons,
                const float* amounts, const float* columns, int64_t tokens, int64_t d_h,
                double* rises, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> tail(d_h);
    const std::vector<float> zeros(d_h);
#pragma omp for schedule(dynamic, 16)
    for (int64_t token = 0; token < tokens; ++token) {
      std::memcpy(tail.data(), tails + token * d_h, d_h * sizeof(float));
      double before = grown(tail.data(), 0, zeros.data(), d_h);
      for (int64_t step = starts[token]; step < starts[token + 1]; ++step) {
        const float* column = columns + neurons[step] * d_h;
        const double after = grown(tail.data(), amounts[step], column, d_h);
        rises[step] = after - before;
        before = after;
      }
    }
  }
}
}
