// Batch norm and the activation after it: by the batch's own statistics, forward and backward, and
// by given ones.
//
// A map is rows x channels: pixels of all images, channels_last. Every pass goes over memory
// once; sums are taken over chunks of rows that do not depend on the number of threads, so that
// results do not, either.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#define NOT_INLINE __attribute__((noinline))

namespace {

using Size = std::int64_t;

using BFloat16 = std::uint16_t;  // the upper half of a float

inline float widen(float value) { return value; }

inline float widen(BFloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline void store(float* to, float value) { *to = value; }

inline void store(BFloat16* to, float value) {  // rounds to nearest, ties to even
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *to = static_cast<std::uint16_t>(value != value ? 0x7fc0u : rounded);
}

// Identity, ReLU and ReLU6. Comparisons let NaN through, as PyTorch does.
struct Clamp {
  float low, high;

  float activate(float z) const { return z < low ? low : z > high ? high : z; }

  // The gradient of z, given that of activate(z).
  float pass(float gradient, float z) const { return z <= low || z >= high ? 0.f : gradient; }
};

struct HardSwish {
  Clamp gate;  // of 0 and 6

  float activate(float z) const { return z * gate.activate(z + 3.f) * (1.f / 6.f); }

  float pass(float gradient, float z) const {
    return z < -3.f ? 0.f : z > 3.f ? gradient : gradient * (z * (1.f / 3.f) + 0.5f);
  }
};

// Rows put together until they fill vector registers, as values in memory are one after the other.
struct Layout {
  Size channels, together, width, values, wide_rows, chunk_rows, chunks;

  Layout(Size rows, Size channels) : channels(channels), together(1) {
    while (together < 8 && (channels * together < 64 || channels * together % 16)) together *= 2;
    width = channels * together;
    values = rows * channels;
    wide_rows = (values + width - 1) / width;  // the last may be short
    // Long enough that few sums are left to add up, short enough that floats hold them.
    chunk_rows = std::min<Size>(512, std::max<Size>(64, (wide_rows + 127) / 128));
    chunks = (wide_rows + chunk_rows - 1) / chunk_rows;
  }

  int threads(int most) const { return static_cast<int>(std::min<Size>(most, chunks)); }

  // Calls visit(first value, number of values) for each wide row of a chunk.
  template <class Visit>
  void each_row(Size chunk, Visit visit) const {
    const Size end = std::min(wide_rows, (chunk + 1) * chunk_rows);
    for (Size row = chunk * chunk_rows; row < end; ++row)
      visit(row * width, std::min(width, values - row * width));
  }

  std::vector<float> widened(const float* of_channel) const {
    std::vector<float> wide(width);
    for (Size i = 0; i < width; ++i) wide[i] = of_channel[i % channels];
    return wide;
  }
};

// Two sums over all rows of what add(first value, number, sum, other sum) adds, for each channel.
template <class Add>
void sum_channels(const Layout& layout, int threads, double* sums, double* others, Add add) {
  const Size width = layout.width;
  std::vector<float> partial(2 * width * layout.chunks, 0.f);
#pragma omp parallel for num_threads(layout.threads(threads)) schedule(static)
  for (Size chunk = 0; chunk < layout.chunks; ++chunk) {
    float* sum = partial.data() + 2 * width * chunk;
    layout.each_row(chunk, [&](Size first, Size count) { add(first, count, sum, sum + width); });
  }
  std::fill(sums, sums + layout.channels, 0.0);
  std::fill(others, others + layout.channels, 0.0);
  for (Size chunk = 0; chunk < layout.chunks; ++chunk) {
    const float* sum = partial.data() + 2 * width * chunk;
    for (Size i = 0, channel = 0; i < width; ++i) {
      sums[channel] += sum[i];
      others[channel] += sum[width + i];
      if (++channel == layout.channels) channel = 0;
    }
  }
}

// The passes over a row. Functions of their own, for compilers take `__restrict` at its word in
// parameters, and vectorise only with it.

template <class Value>
NOT_INLINE void add_moments(Size count, const Value* __restrict x, const float* __restrict origin,
                            float* __restrict sum, float* __restrict square) {
  for (Size i = 0; i < count; ++i) {
    const float difference = widen(x[i]) - origin[i];
    sum[i] += difference;
    square[i] += difference * difference;
  }
}

template <class Value, class Activation>
NOT_INLINE void write_output(Activation activation, Size count, const Value* x,
                             const float* __restrict scale, const float* __restrict shift,
                             Value* y) {
#pragma omp simd  // y may be x: what compilers have to know is that no value waits for another
  for (Size i = 0; i < count; ++i)
    store(y + i, activation.activate(widen(x[i]) * scale[i] + shift[i]));
}

template <class Value, class Activation>
NOT_INLINE void add_gradients(Activation activation, Size count, const Value* __restrict gradient,
                              const Value* __restrict x, const float* __restrict scale,
                              const float* __restrict shift, const float* __restrict mean,
                              float* __restrict sum, float* __restrict product) {
  for (Size i = 0; i < count; ++i) {
    const float value = widen(x[i]);
    const float of_z = activation.pass(widen(gradient[i]), value * scale[i] + shift[i]);
    sum[i] += of_z;
    product[i] += of_z * (value - mean[i]);
  }
}

template <class Value, class Activation>
NOT_INLINE void write_gradient(Activation activation, Size count, const Value* __restrict gradient,
                               const Value* __restrict x, const float* __restrict scale,
                               const float* __restrict shift, const float* __restrict slope,
                               const float* __restrict constant, Value* __restrict of_x) {
  for (Size i = 0; i < count; ++i) {
    const float value = widen(x[i]);
    const float of_z = activation.pass(widen(gradient[i]), value * scale[i] + shift[i]);
    store(of_x + i, scale[i] * of_z + (slope[i] * value + constant[i]));
  }
}

template <class Value, class Activation>
void apply(Activation activation, Size rows, Size channels, const Value* x, Value* y,
           const float* scale, const float* shift, int threads) {
  const Layout layout(rows, channels);
  const std::vector<float> wide_scale = layout.widened(scale);
  const std::vector<float> wide_shift = layout.widened(shift);
#pragma omp parallel for num_threads(layout.threads(threads)) schedule(static)
  for (Size chunk = 0; chunk < layout.chunks; ++chunk)
    layout.each_row(chunk, [&](Size first, Size count) {
      write_output(activation, count, x + first, wide_scale.data(), wide_shift.data(), y + first);
    });
}

template <class Value, class Activation>
void forward(Activation activation, Size rows, Size channels, const Value* x, Value* y, const float* weight,
             const float* bias, float* running_mean, float* running_variance, float momentum,
             float epsilon, float* mean, float* inverse_deviation, int threads) {
  const Layout layout(rows, channels);
  // Sums of differences to a guess of the mean, from some pixels: those of the values cancel where
  // the mean is large.
  std::vector<float> origin(channels, 0.f);
  const Size guesses = std::min<Size>(rows, 64);
  for (Size guess = 0; guess < guesses; ++guess) {
    const Value* pixel = x + rows / guesses * guess * channels;
    for (Size c = 0; c < channels; ++c) origin[c] += widen(pixel[c]) / guesses;
  }
  const std::vector<float> wide_origin = layout.widened(origin.data());
  std::vector<double> sums(channels), squares(channels);
  sum_channels(layout, threads, sums.data(), squares.data(),
               [&](Size first, Size count, float* sum, float* square) {
                 add_moments(count, x + first, wide_origin.data(), sum, square);
               });
  std::vector<float> scale(channels), shift(channels);
  for (Size c = 0; c < channels; ++c) {
    const double offset = sums[c] / rows;
    const double variance = std::max(squares[c] / rows - offset * offset, 0.0);
    mean[c] = static_cast<float>(origin[c] + offset);
    inverse_deviation[c] = static_cast<float>(1.0 / std::sqrt(variance + epsilon));
    const double unbiased = variance * rows / (rows - 1);
    const float kept = 1.f - momentum;
    running_mean[c] = kept * running_mean[c] + momentum * mean[c];
    running_variance[c] = kept * running_variance[c] + momentum * static_cast<float>(unbiased);
    scale[c] = weight[c] * inverse_deviation[c];
    shift[c] = bias[c] - mean[c] * scale[c];
  }
  apply(activation, rows, channels, x, y, scale.data(), shift.data(), threads);
}

template <class Value, class Activation>
void backward(Activation activation, Size rows, Size channels, const Value* gradient, const Value* x, const float* weight,
              const float* bias, const float* mean, const float* inverse_deviation,
              Value* of_x, float* of_weight, float* of_bias, int threads) {
  const Layout layout(rows, channels);
  std::vector<float> scale(channels), shift(channels);
  for (Size c = 0; c < channels; ++c) {
    scale[c] = weight[c] * inverse_deviation[c];
    shift[c] = bias[c] - mean[c] * scale[c];
  }
  const std::vector<float> wide_scale = layout.widened(scale.data());
  const std::vector<float> wide_shift = layout.widened(shift.data());
  const std::vector<float> wide_mean = layout.widened(mean);
  std::vector<double> sums(channels), products(channels);
  sum_channels(layout, threads, sums.data(), products.data(),
               [&](Size first, Size count, float* sum, float* product) {
                 add_gradients(activation, count, gradient + first, x + first, wide_scale.data(),
                               wide_shift.data(), wide_mean.data(), sum, product);
               });
  // of_x = scale * (of_z - mean(of_z) - normalised * mean(of_z * normalised)): linear in of_z, x.
  std::vector<float> slope(channels), constant(channels);
  for (Size c = 0; c < channels; ++c) {
    of_bias[c] = static_cast<float>(sums[c]);
    of_weight[c] = static_cast<float>(products[c] * inverse_deviation[c]);
    const double inverse = inverse_deviation[c];
    const double per_x = -scale[c] * inverse * inverse * products[c] / rows;
    slope[c] = static_cast<float>(per_x);
    constant[c] = static_cast<float>(-scale[c] * sums[c] / rows - per_x * mean[c]);
  }
  const std::vector<float> wide_slope = layout.widened(slope.data());
  const std::vector<float> wide_constant = layout.widened(constant.data());
#pragma omp parallel for num_threads(layout.threads(threads)) schedule(static)
  for (Size chunk = 0; chunk < layout.chunks; ++chunk)
    layout.each_row(chunk, [&](Size first, Size count) {
      write_gradient(activation, count, gradient + first, x + first, wide_scale.data(),
                     wide_shift.data(), wide_slope.data(), wide_constant.data(), of_x + first);
    });
}

// 0, or 1 where there is no memory: no exception may leave C.
template <class Work>
int without_exceptions(Work work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace

#define DEFINE(VALUE, TYPE, NAME, ACTIVATION)                                                     \
  extern "C" int apply_##TYPE##_##NAME(Size rows, Size channels, const VALUE* x, VALUE* y,        \
                                       const float* scale, const float* shift, float low,         \
                                       float high, int threads) {                                 \
    return without_exceptions(                                                                    \
        [&] { apply(ACTIVATION, rows, channels, x, y, scale, shift, threads); });                 \
  }                                                                                               \
  extern "C" int forward_##TYPE##_##NAME(                                                         \
      Size rows, Size channels, const VALUE* x, VALUE* y, const float* weight, const float* bias, \
      float* running_mean, float* running_variance, float momentum, float epsilon, float* mean,   \
      float* inverse_deviation, float low, float high, int threads) {                             \
    return without_exceptions([&] {                                                               \
      forward(ACTIVATION, rows, channels, x, y, weight, bias, running_mean, running_variance,     \
              momentum, epsilon, mean, inverse_deviation, threads);                               \
    });                                                                                           \
  }                                                                                               \
  extern "C" int backward_##TYPE##_##NAME(                                                        \
      Size rows, Size channels, const VALUE* gradient, const VALUE* x, const float* weight,       \
      const float* bias, const float* mean, const float* inverse_deviation, VALUE* of_x,          \
      float* of_weight, float* of_bias, float low, float high, int threads) {                     \
    return without_exceptions([&] {                                                               \
      backward(ACTIVATION, rows, channels, gradient, x, weight, bias, mean, inverse_deviation,    \
               of_x, of_weight, of_bias, threads);                                                \
    });                                                                                           \
  }

DEFINE(float, float32, clamp, (Clamp{low, high}))
DEFINE(float, float32, hard_swish, (HardSwish{{low, high}}))
DEFINE(BFloat16, bfloat16, clamp, (Clamp{low, high}))
DEFINE(BFloat16, bfloat16, hard_swish, (HardSwish{{low, high}}))
