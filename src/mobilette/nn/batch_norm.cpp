// Batch norm and the activation after it: by the batch's own statistics, forward and backward, and
// by given ones.
//
// A map is rows x channels: pixels of all images, channels_last. Every pass goes over memory
// once; sums are taken over chunks of rows that do not depend on the number of threads, so that
// results do not, either.

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "maps.h"

namespace {

inline float widen(float value) { return value; }

inline float widen(BFloat16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

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
void sum_channels(const Layout& layout, int threads, double* sums, Add add) {
  const Size width = layout.width;
  std::vector<float> partial(2 * width * layout.chunks, 0.f);
#pragma omp parallel for num_threads(layout.threads(threads)) schedule(static)
  for (Size chunk = 0; chunk < layout.chunks; ++chunk) {
    float* sum = partial.data() + 2 * width * chunk;
    layout.each_row(chunk, [&](Size first, Size count) { add(first, count, sum, sum + width); });
  }
  std::fill(sums, sums + 2 * layout.channels, 0.0);
  for (Size chunk = 0; chunk < layout.chunks; ++chunk) {
    const float* sum = partial.data() + 2 * width * chunk;
    for (Size i = 0, channel = 0; i < width; ++i) {
      sums[2 * channel] += sum[i];
      sums[2 * channel + 1] += sum[width + i];
      if (++channel == layout.channels) channel = 0;
    }
  }
}

// Bytes ahead of what is read. The processor's own prefetching ends with each page of 4 KiB.
constexpr Size AHEAD = 2048, LINE = 64;

// Has the processor load what comes after as many values as these.
template <class Value>
void look_ahead(const Value* from, Size count) {
  const char* const bytes = reinterpret_cast<const char*>(from) + AHEAD;
  for (Size i = 0; i < count * static_cast<Size>(sizeof(Value)); i += LINE)
    __builtin_prefetch(bytes + i);
}

// The passes over a row. Functions of their own, for compilers take `__restrict` at its word in
// parameters, and vectorise only with it.

// Calls work(lanes, first) for blocks of values; what it writes may be what it reads.
template <class Work>
void in_blocks(Size count, Work work) {
  Size i = 0;
  for (; i + LANES <= count; i += LANES) work(std::integral_constant<int, LANES>(), i);
  for (; i < count; ++i) work(std::integral_constant<int, 1>(), i);
}

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
NOT_INLINE void write_output(Activation activation, Size count, const Value* x, const float* scale,
                             const float* shift, Value* y) {
  in_blocks(count, [&](auto lanes, Size i) {
    using B = Block<lanes()>;
    B::store(y + i, activation.activate(B::load(x + i) * B::load(scale + i) + B::load(shift + i)));
  });
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
NOT_INLINE void write_gradient(Activation activation, Size count, const Value* gradient,
                               const Value* x, const float* scale, const float* shift,
                               const float* slope, const float* constant, Value* of_x) {
  in_blocks(count, [&](auto lanes, Size i) {
    using B = Block<lanes()>;
    const auto value = B::load(x + i), factor = B::load(scale + i);
    const auto of_z = activation.pass(B::load(gradient + i), value * factor + B::load(shift + i));
    B::store(of_x + i, factor * of_z + (B::load(slope + i) * value + B::load(constant + i)));
  });
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
      look_ahead(x + first, count);
      write_output(activation, count, x + first, wide_scale.data(), wide_shift.data(), y + first);
    });
}

template <class Value>
void measure(Size rows, Size channels, const Value* x, float* mean, float* variance, int threads) {
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
  std::vector<double> sums(2 * channels);
  sum_channels(layout, threads, sums.data(),
               [&](Size first, Size count, float* sum, float* square) {
                 look_ahead(x + first, count);
                 add_moments(count, x + first, wide_origin.data(), sum, square);
               });
  for (Size c = 0; c < channels; ++c) {
    const double offset = sums[2 * c] / rows;
    mean[c] = static_cast<float>(origin[c] + offset);
    variance[c] = static_cast<float>(std::max(sums[2 * c + 1] / rows - offset * offset, 0.0));
  }
}

template <class Value, class Activation>
void sum_gradients(Activation activation, Size rows, Size channels, const Value* gradient,
                   const Value* x, const float* scale, const float* shift, const float* mean,
                   double* sums, int threads) {
  const Layout layout(rows, channels);
  const std::vector<float> wide_scale = layout.widened(scale), wide_shift = layout.widened(shift);
  const std::vector<float> wide_mean = layout.widened(mean);
  sum_channels(layout, threads, sums, [&](Size first, Size count, float* sum, float* product) {
    look_ahead(gradient + first, count);
    look_ahead(x + first, count);
    add_gradients(activation, count, gradient + first, x + first, wide_scale.data(),
                  wide_shift.data(), wide_mean.data(), sum, product);
  });
}

// `sums`: for each channel of the gradients of z, and of their products with x - mean.
template <class Value, class Activation>
void give_gradients(Activation activation, Size rows, Size channels, const Value* gradient,
                    const Value* x, const float* scale, const float* shift, const float* mean,
                    const float* inverse_deviation, const double* sums, Value* of_x,
                    float* of_weight, float* of_bias, int threads) {
  const Layout layout(rows, channels);
  // of_x = scale * (of_z - mean(of_z) - normalised * mean(of_z * normalised)): linear in of_z, x.
  std::vector<float> slope(channels), constant(channels);
  for (Size c = 0; c < channels; ++c) {
    const double sum = sums[2 * c], product = sums[2 * c + 1], inverse = inverse_deviation[c];
    of_bias[c] = static_cast<float>(sum);
    of_weight[c] = static_cast<float>(product * inverse);
    const double per_x = -scale[c] * inverse * inverse * product / rows;
    slope[c] = static_cast<float>(per_x);
    constant[c] = static_cast<float>(-scale[c] * sum / rows - per_x * mean[c]);
  }
  const std::vector<float> wide_scale = layout.widened(scale), wide_shift = layout.widened(shift);
  const std::vector<float> wide_slope = layout.widened(slope.data());
  const std::vector<float> wide_constant = layout.widened(constant.data());
#pragma omp parallel for num_threads(layout.threads(threads)) schedule(static)
  for (Size chunk = 0; chunk < layout.chunks; ++chunk)
    layout.each_row(chunk, [&](Size first, Size count) {
      look_ahead(gradient + first, count);
      look_ahead(x + first, count);
      write_gradient(activation, count, gradient + first, x + first, wide_scale.data(),
                     wide_shift.data(), wide_slope.data(), wide_constant.data(), of_x + first);
    });
}

}  // namespace

// Of the batch's statistics: running ones, and what gives x * scale + shift.
extern "C" int settle_norm(Size rows, Size channels, const float* mean, const float* variance,
                            const float* weight, const float* bias, float* running_mean,
                            float* running_variance, float momentum, float epsilon,
                            float* inverse_deviation, float* scale, float* shift, int) {
  const float kept = 1.f - momentum;
  for (Size c = 0; c < channels; ++c) {
    const double unbiased = static_cast<double>(variance[c]) * rows / (rows - 1);
    running_mean[c] = kept * running_mean[c] + momentum * mean[c];
    running_variance[c] = kept * running_variance[c] + momentum * static_cast<float>(unbiased);
    inverse_deviation[c] =
        static_cast<float>(1.0 / std::sqrt(static_cast<double>(variance[c]) + epsilon));
    scale[c] = weight[c] * inverse_deviation[c];
    shift[c] = bias[c] - mean[c] * scale[c];
  }
  return 0;
}

#define DEFINE(VALUE, TYPE)                                                                       \
  extern "C" int measure_##TYPE(Size rows, Size channels, const VALUE* x, float* mean,            \
                                float* variance, int threads) {                                   \
    return without_exceptions([&] { measure(rows, channels, x, mean, variance, threads); });      \
  }                                                                                               \
  extern "C" int apply_##TYPE(Size rows, Size channels, const VALUE* x, VALUE* y,                 \
                              const float* scale, const float* shift, ACTIVATION, int threads) {  \
    return with_activation(activation, low, high, [&](auto known) {                               \
      apply(known, rows, channels, x, y, scale, shift, threads);                                  \
    });                                                                                           \
  }                                                                                               \
  extern "C" int sum_gradients_##TYPE(Size rows, Size channels, const VALUE* gradient,            \
                                      const VALUE* x, const float* scale, const float* shift,     \
                                      const float* mean, double* sums, ACTIVATION, int threads) { \
    return with_activation(activation, low, high, [&](auto known) {                               \
      sum_gradients(known, rows, channels, gradient, x, scale, shift, mean, sums, threads);       \
    });                                                                                           \
  }                                                                                               \
  extern "C" int give_gradients_##TYPE(                                                           \
      Size rows, Size channels, const VALUE* gradient, const VALUE* x, const float* scale,        \
      const float* shift, const float* mean, const float* inverse_deviation, const double* sums,  \
      VALUE* of_x, float* of_weight, float* of_bias, ACTIVATION, int threads) {                   \
    return with_activation(activation, low, high, [&](auto known) {                               \
      give_gradients(known, rows, channels, gradient, x, scale, shift, mean, inverse_deviation,   \
                     sums, of_x, of_weight, of_bias, threads);                                    \
    });                                                                                           \
  }

DEFINE(float, float32)
DEFINE(BFloat16, bfloat16)
