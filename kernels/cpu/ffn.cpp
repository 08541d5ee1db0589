// Products with some neurons only, for processors: what kernels/cpu/ffn.py calls.
//
// A neuron is a row: of W_gate and W_in (d_f, d_h), and of W_out packed (d_f, d_h), so that its
// weights lie together. Neurons are taken in tiles that stay in the cache while token after token
// uses them, some at a time; some tokens together where they leave out none of a tile. Every sum has
// one fixed order, whatever the tokens beside it and the number of threads: a token's result is the
// same to the bit alone and in a batch.
//
// Weights are float32 or bfloat16 (as uint16_t); sums are float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "lanes.h"

namespace {

constexpr int64_t TILE_BYTES = 192 * 1024;  // of weights: less than half of a core's second cache
constexpr int64_t SUM_BYTES = 16 * 1024;    // of sums of W_out: half of a core's first cache

// Dot products of NEURONS rows with TOKENS tokens.
template <int NEURONS, int TOKENS, typename Weight>
inline void dot(const Weight* const* rows, const float* const* x, int64_t d_h,
                float (*products)[TOKENS]) {
  Floats sums[NEURONS][TOKENS] = {};
  int64_t at = 0;
  for (; at + LANES <= d_h; at += LANES) {
    Floats of_x[TOKENS];
    for (int t = 0; t < TOKENS; ++t) of_x[t] = kept(load(x[t] + at));
    for (int n = 0; n < NEURONS; ++n) {
      const Floats weights = kept(load(rows[n] + at));
      for (int t = 0; t < TOKENS; ++t) sums[n][t] += weights * of_x[t];
    }
  }
  for (int n = 0; n < NEURONS; ++n)
    for (int t = 0; t < TOKENS; ++t) {
      float rest = 0;
      for (int64_t last = at; last < d_h; ++last) rest += scalar(rows[n][last]) * x[t][last];
      products[n][t] = sum(sums[n][t]) + rest;
    }
}

// y += amounts[n] * rows[n] for NEURONS rows, one after the other, for TOKENS tokens.
template <int NEURONS, int TOKENS, typename Weight>
inline void add(const Weight* const* rows, const float (*amounts)[TOKENS], int64_t columns,
                float* const* y) {
  int64_t at = 0;
  for (; at + LANES <= columns; at += LANES) {
    Floats lanes[TOKENS];
    for (int t = 0; t < TOKENS; ++t) lanes[t] = load(y[t] + at);
    for (int n = 0; n < NEURONS; ++n) {
      const Floats weights = kept(load(rows[n] + at));
      for (int t = 0; t < TOKENS; ++t) lanes[t] += weights * amounts[n][t];
    }
    for (int t = 0; t < TOKENS; ++t) std::memcpy(y[t] + at, &lanes[t], sizeof lanes[t]);
  }
  for (; at < columns; ++at)
    for (int n = 0; n < NEURONS; ++n)
      for (int t = 0; t < TOKENS; ++t)
        y[t][at] = std::fma(scalar(rows[n][at]), amounts[n][t], y[t][at]);
}

// Calls work(token, TOKENS) for all tokens, some together: what is read of the weights serves all.
template <typename Work>
inline void together(int64_t tokens, Work work) {
  int64_t token = 0;
  while (token < tokens) {
    const int64_t left = tokens - token;
    const auto take = [&](auto some) {
      work(token, some);
      token += some.value;
    };
    if (left >= MOST_TOGETHER && left != MOST_TOGETHER + 1)
      take(std::integral_constant<int, MOST_TOGETHER>());
    else if (left == 3)
      take(std::integral_constant<int, 3>());
    else if (left >= 2)
      take(std::integral_constant<int, 2>());
    else
      take(std::integral_constant<int, 1>());
  }
}

inline bool any_zero(const float* values, int64_t begin, int64_t end) {
  bool found = false;
  for (int64_t at = begin; at < end; ++at) found |= values[at] == 0;
  return found;
}

// What the products of a row become, and which of them are wanted at all.
//   gate: null, or (tokens, count): rows with a gate of 0 are left out, others multiplied by it
//   thresholds: null, or (count,): smaller products than this become 0
struct Wanted {
  const float* gate;
  const float* thresholds;

  template <typename Weight>
  float finished(float value, int64_t place, const Weight* weights) const {
    if (gate) value = rounded(gate[place] * rounded(value, weights), weights);
    // Not `<`: a NaN is weak too, as in kernels/activity.py.
    return thresholds && !(std::fabs(value) >= thresholds[place]) ? 0 : value;
  }
};

// Of one token, neurons left out; or of some that leave out none.
template <int TOKENS, typename Weight>
inline void product_tile(const float* const* x, const Weight* weights, const int64_t* neurons,
                         int64_t begin, int64_t end, int64_t d_h, const Wanted* wanted,
                         float* const* products) {
  constexpr int MOST_HELD = TOKENS == 1 ? 8 : 4;  // rows: sums enough to hide how long one takes
  const Weight* rows[MOST_HELD];
  int64_t places[MOST_HELD];
  float values[MOST_HELD][TOKENS];
  int held = 0;
  const auto finish = [&]() {
    for (int n = 0; n < held; ++n)
      for (int t = 0; t < TOKENS; ++t)
        products[t][places[n]] = wanted[t].finished(values[n][t], places[n], weights);
    held = 0;
  };
  for (int64_t place = begin; place < end; ++place) {
    if (TOKENS == 1 && wanted->gate && wanted->gate[place] == 0) {
      products[0][place] = 0;
      continue;
    }
    rows[held] = weights + (neurons ? neurons[place] : place) * d_h;
    places[held++] = place;
    if (held == MOST_HELD) {
      dot<MOST_HELD, TOKENS>(rows, x, d_h, values);
      finish();
    }
  }
  for (int n = 0; n < held; ++n) dot<1, TOKENS>(rows + n, x, d_h, values + n);
  finish();
}

template <typename Weight>
void neuron_products(const float* x, const Weight* weights, const int64_t* neurons, int64_t count,
                     int64_t tokens, int64_t d_h, Wanted wanted, float* products, int threads) {
  const int64_t row_bytes = std::max<int64_t>(d_h, 1) * static_cast<int64_t>(sizeof(Weight));
  const int64_t tile = std::max<int64_t>(4, TILE_BYTES / row_bytes / 4 * 4);
  const int64_t tiles = (count + tile - 1) / tile;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t which = 0; which < tiles; ++which) {
    const int64_t begin = which * tile, end = std::min(begin + tile, count);
    together(tokens, [&](int64_t first, auto some) {
      constexpr int TOKENS = decltype(some)::value;
      const float* of_x[TOKENS];
      float* into[TOKENS];
      Wanted of[TOKENS];
      bool whole = TOKENS > 1;
      for (int t = 0; t < TOKENS; ++t) {
        of_x[t] = x + (first + t) * d_h;
        into[t] = products + (first + t) * count;
        of[t] = {wanted.gate ? wanted.gate + (first + t) * count : nullptr, wanted.thresholds};
        whole = whole && !(of[t].gate && any_zero(of[t].gate, begin, end));
      }
      if (whole)
        product_tile<TOKENS>(of_x, weights, neurons, begin, end, d_h, of, into);
      else
        for (int t = 0; t < TOKENS; ++t)
          product_tile<1>(of_x + t, weights, neurons, begin, end, d_h, of + t, into + t);
    });
  }
}

// Of one token, neurons left out unless `every`; or of some that leave out none. Row by row, as
// memory gives them fastest.
template <int TOKENS, typename Weight>
inline void output_rows(const float* const* z, const Weight* w_out, const int64_t* neurons,
                        int64_t begin, int64_t end, int64_t d_h, int64_t columns, bool every,
                        float* const* y) {
  const Weight* rows[4];
  float amounts[4][TOKENS];
  int held = 0;
  for (int64_t place = begin; place < end; ++place) {
    if (TOKENS == 1 && !every && z[0][place] == 0) continue;
    rows[held] = w_out + (neurons ? neurons[place] : place) * d_h;
    for (int t = 0; t < TOKENS; ++t) amounts[held][t] = z[t][place];
    if (++held == 4) {
      add<4, TOKENS>(rows, amounts, columns, y);
      held = 0;
    }
  }
  for (int n = 0; n < held; ++n) add<1, TOKENS>(rows + n, amounts + n, columns, y);
}

template <int TOKENS, int VECTORS, typename Weight>
inline void output_block(const float* const* z, const Weight* w_out, const int64_t* neurons,
                         int64_t begin, int64_t end, int64_t d_h, float* const* y, int64_t at) {
  Floats sums[TOKENS][VECTORS];
  for (int t = 0; t < TOKENS; ++t)
    for (int v = 0; v < VECTORS; ++v) sums[t][v] = load(y[t] + at + v * LANES);
  for (int64_t place = begin; place < end; ++place) {
    const Weight* row = w_out + (neurons ? neurons[place] : place) * d_h + at;
    Floats amounts[TOKENS];
    // In all lanes, by one instruction: - 0 is nothing to do, + 0 would make a 0 of -0.
    for (int t = 0; t < TOKENS; ++t) amounts[t] = z[t][place] - Floats{};
    for (int v = 0; v < VECTORS; ++v) {
      const Floats weights = kept(load(row + v * LANES));
      for (int t = 0; t < TOKENS; ++t) sums[t][v] += weights * amounts[t];
    }
  }
  for (int t = 0; t < TOKENS; ++t)
    for (int v = 0; v < VECTORS; ++v)
      std::memcpy(y[t] + at + v * LANES, &sums[t][v], sizeof sums[t][v]);
}

// As output_rows of `every`, for a tile that is in the cache: sums stay in registers.
template <int TOKENS, typename Weight>
inline void output_columns(const float* const* z, const Weight* w_out, const int64_t* neurons,
                           int64_t begin, int64_t end, int64_t d_h, int64_t columns,
                           float* const* y) {
  int64_t at = 0;
  for (; at + 4 * LANES <= columns; at += 4 * LANES)
    output_block<TOKENS, 4>(z, w_out, neurons, begin, end, d_h, y, at);
  for (; at + LANES <= columns; at += LANES)
    output_block<TOKENS, 1>(z, w_out, neurons, begin, end, d_h, y, at);
  for (; at < columns; ++at)
    for (int64_t place = begin; place < end; ++place) {
      const float weight = scalar(w_out[(neurons ? neurons[place] : place) * d_h + at]);
      for (int t = 0; t < TOKENS; ++t) y[t][at] = std::fma(weight, z[t][place], y[t][at]);
    }
}

// Columns of y summed by one thread: few enough for the first cache, many enough for all threads.
inline int64_t columns_together(int64_t tokens, int64_t d_h, int threads) {
  const int64_t fitting = SUM_BYTES / 4 / std::max<int64_t>(tokens, 1);
  const int64_t shared = (d_h + threads - 1) / threads;
  const int64_t step = 64;
  return std::max(step, std::min(fitting, shared + step - 1) / step * step);
}

template <typename Weight>
void neuron_outputs(const float* z, const Weight* w_out, const int64_t* neurons, int64_t count,
                    int64_t tokens, int64_t d_h, bool every, float* y, int threads) {
  const int64_t width = columns_together(tokens, d_h, threads);
  const int64_t slices = (d_h + width - 1) / width;
  const int64_t tile = std::max<int64_t>(
      4, TILE_BYTES / (width * static_cast<int64_t>(sizeof(Weight))) / 4 * 4);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t first = slice * width, columns = std::min(width, d_h - first);
    for (int64_t token = 0; token < tokens; ++token)
      std::fill_n(y + token * d_h + first, columns, 0.0f);
    for (int64_t begin = 0; begin < count; begin += tile) {
      const int64_t end = std::min(begin + tile, count);
      together(tokens, [&](int64_t token, auto some) {
        constexpr int TOKENS = decltype(some)::value;
        const float* of_z[TOKENS];
        float* into[TOKENS];
        bool whole = true;
        for (int t = 0; t < TOKENS; ++t) {
          of_z[t] = z + (token + t) * count;
          into[t] = y + (token + t) * d_h + first;
          whole = whole && (every || (TOKENS > 1 && !any_zero(of_z[t], begin, end)));
        }
        const Weight* of_w = w_out + first;
        if (whole && token > 0)
          output_columns<TOKENS>(of_z, of_w, neurons, begin, end, d_h, columns, into);
        else if (whole)
          output_rows<TOKENS>(of_z, of_w, neurons, begin, end, d_h, columns, every, into);
        else
          for (int t = 0; t < TOKENS; ++t)
            output_rows<1>(of_z + t, of_w, neurons, begin, end, d_h, columns, every, into + t);
      });
    }
  }
}

}  // namespace

extern "C" {

#define SPARSING_FUNCTIONS(NAME, WEIGHT)                                                          \
  void neuron_products_##NAME(const float* x, const WEIGHT* weights, const int64_t* neurons,      \
                              int64_t count, int64_t tokens, int64_t d_h, const float* gate,      \
                              const float* thresholds, float* products, int threads) {            \
    neuron_products(x, weights, neurons, count, tokens, d_h, Wanted{gate, thresholds}, products,  \
                    threads);                                                                     \
  }                                                                                               \
  void neuron_outputs_##NAME(const float* z, const WEIGHT* w_out, const int64_t* neurons,         \
                             int64_t count, int64_t tokens, int64_t d_h, int64_t every, float* y, \
                             int threads) {                                                       \
    neuron_outputs(z, w_out, neurons, count, tokens, d_h, every != 0, y, threads);                \
  }

SPARSING_FUNCTIONS(float32, float)
SPARSING_FUNCTIONS(bfloat16, uint16_t)
}
