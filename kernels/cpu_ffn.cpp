// Products with some neurons only, for processors: what kernels/cpu_ffn.py calls.
//
// A neuron is a row: of W_gate and W_in (d_f, d_h), and of W_out packed (d_f, d_h), so that its
// weights lie together. Neurons are taken in tiles that stay in the cache while token after token
// uses them, four at a time. Every sum has one fixed order, whatever the tokens beside it and the
// number of threads: a token's result is the same to the bit alone and in a batch.
//
// Weights are float32 or bfloat16 (as uint16_t); sums are float32.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

#ifdef __AVX512F__
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
// Vectors of the compiler: whatever registers there are, it fills.
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
constexpr int64_t TILE_BYTES = 192 * 1024;  // of weights: less than half of a core's second cache
constexpr int64_t SUM_BYTES = 16 * 1024;    // of sums of W_out: half of a core's first cache

inline Floats load(const float* from) {
  Floats lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline Floats load(const uint16_t* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Floats lanes;
  std::memcpy(&lanes, &words, sizeof lanes);
  return lanes;
}

inline float scalar(float value) { return value; }

inline float scalar(uint16_t half) {
  const uint32_t word = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Rounded to what the weights are, as torch would round a tensor of that type.
inline float rounded(float value, const float*) { return value; }

inline float rounded(float value, const uint16_t*) {
  if (std::isnan(value)) return value;
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  word += 0x7fff + ((word >> 16) & 1);
  return scalar(static_cast<uint16_t>(word >> 16));
}

inline float sum(Floats lanes) {
  for (int64_t half = LANES / 2; half; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// Dot products of NEURONS rows with x, each in two sums.
template <int NEURONS, typename Weight>
inline void dot(const Weight* const* rows, const float* x, int64_t d_h, float* products) {
  Floats even[NEURONS] = {}, odd[NEURONS] = {};
  int64_t at = 0;
  for (; at + 2 * LANES <= d_h; at += 2 * LANES) {
    const Floats first = load(x + at), second = load(x + at + LANES);
    for (int n = 0; n < NEURONS; ++n) {
      even[n] += load(rows[n] + at) * first;
      odd[n] += load(rows[n] + at + LANES) * second;
    }
  }
  for (int n = 0; n < NEURONS; ++n) {
    float rest = 0;
    for (int64_t last = at; last < d_h; ++last) rest += scalar(rows[n][last]) * x[last];
    products[n] = sum(even[n] + odd[n]) + rest;
  }
}

// y += amounts[n] * rows[n] for NEURONS rows, one after the other.
template <int NEURONS, typename Weight>
inline void add(const Weight* const* rows, const float* amounts, int64_t columns, float* y) {
  int64_t at = 0;
  for (; at + LANES <= columns; at += LANES) {
    Floats lanes = load(y + at);
    for (int n = 0; n < NEURONS; ++n) lanes += load(rows[n] + at) * amounts[n];
    std::memcpy(y + at, &lanes, sizeof lanes);
  }
  for (; at < columns; ++at)
    for (int n = 0; n < NEURONS; ++n) y[at] = std::fma(scalar(rows[n][at]), amounts[n], y[at]);
}

// What the products of a row become, and which of them are wanted at all.
//   gate: null, or (tokens, count): rows with a gate of 0 are left out, others multiplied by it
//   thresholds: null, or (count,): smaller products than this become 0
struct Wanted {
  const float* gate;
  const float* thresholds;
};

template <typename Weight>
inline void product_tile(const float* x, const Weight* weights, const int64_t* neurons,
                         int64_t begin, int64_t end, int64_t d_h, Wanted wanted, float* products) {
  const Weight* rows[4];
  int64_t places[4];
  float values[4];
  int held = 0;
  const auto finish = [&]() {
    for (int n = 0; n < held; ++n) {
      float value = values[n];
      if (wanted.gate) value = rounded(wanted.gate[places[n]] * rounded(value, weights), weights);
      // Not `<`: a NaN is weak too, as in kernels/activity.py.
      if (wanted.thresholds && !(std::fabs(value) >= wanted.thresholds[places[n]])) value = 0;
      products[places[n]] = value;
    }
    held = 0;
  };
  for (int64_t place = begin; place < end; ++place) {
    if (wanted.gate && wanted.gate[place] == 0) {
      products[place] = 0;
      continue;
    }
    rows[held] = weights + (neurons ? neurons[place] : place) * d_h;
    places[held++] = place;
    if (held == 4) {
      dot<4>(rows, x, d_h, values);
      finish();
    }
  }
  for (int n = 0; n < held; ++n) dot<1>(rows + n, x, d_h, values + n);
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
    for (int64_t token = 0; token < tokens; ++token) {
      const float* gate = wanted.gate ? wanted.gate + token * count : nullptr;
      product_tile(x + token * d_h, weights, neurons, begin, end, d_h,
                   Wanted{gate, wanted.thresholds}, products + token * count);
    }
  }
}

template <typename Weight>
inline void output_tile(const float* z, const Weight* w_out, const int64_t* neurons, int64_t begin,
                        int64_t end, int64_t d_h, int64_t columns, float* y) {
  const Weight* rows[4];
  float amounts[4];
  int held = 0;
  for (int64_t place = begin; place < end; ++place) {
    if (z[place] == 0) continue;
    rows[held] = w_out + (neurons ? neurons[place] : place) * d_h;
    amounts[held++] = z[place];
    if (held == 4) {
      add<4>(rows, amounts, columns, y);
      held = 0;
    }
  }
  for (int n = 0; n < held; ++n) add<1>(rows + n, amounts + n, columns, y);
}

// Columns of y summed by one thread: few enough for the first cache, many enough for all threads.
inline int64_t columns_together(int64_t tokens, int64_t d_h, int threads) {
  const int64_t fitting = SUM_BYTES / 4 / std::max<int64_t>(tokens, 1), shared = (d_h + threads - 1) / threads;
  const int64_t step = 64;
  return std::max(step, std::min(fitting, shared + step - 1) / step * step);
}

template <typename Weight>
void neuron_outputs(const float* z, const Weight* w_out, const int64_t* neurons, int64_t count,
                    int64_t tokens, int64_t d_h, float* y, int threads) {
  const int64_t width = columns_together(tokens, d_h, threads);
  const int64_t slices = (d_h + width - 1) / width;
  const int64_t tile = std::max<int64_t>(
      4, TILE_BYTES / (width * static_cast<int64_t>(sizeof(Weight))) / 4 * 4);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t slice = 0; slice < slices; ++slice) {
    const int64_t first = slice * width, columns = std::min(width, d_h - first);
    for (int64_t token = 0; token < tokens; ++token)
      std::fill_n(y + token * d_h + first, columns, 0.0f);
    for (int64_t begin = 0; begin < count; begin += tile)
      for (int64_t token = 0; token < tokens; ++token)
        output_tile(z + token * count, w_out + first, neurons, begin,
                    std::min(begin + tile, count), d_h, columns, y + token * d_h + first);
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
                             int64_t count, int64_t tokens, int64_t d_h, float* y, int threads) { \
    neuron_outputs(z, w_out, neurons, count, tokens, d_h, y, threads);                            \
  }

SPARSING_FUNCTIONS(float32, float)
SPARSING_FUNCTIONS(bfloat16, uint16_t)
}
