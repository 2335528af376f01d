// Depthwise convolutions, forward and backward; with the batch norm and activation before them, and
// the sums for the batch norm after them, where that is asked for.
//
// Maps are channels_last and go through memory once. Rows of a block of channels are widened to
// floats in a buffer, with zeros where the padding is: the passes over it know no borders. What is
// added up over images is added in parts that do not depend on the number of threads, so that
// results do not, either.

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "depthwise_rows.h"

namespace {

struct Shape {
  Size images, channels, rows, columns, out_rows, out_columns, top, left;

  Size blocks(int lanes) const { return (channels + lanes - 1) / lanes; }

  // The last block overlaps the one before it where channels do not fill it.
  Size channel(Size block, int lanes) const { return std::min(block * lanes, channels - lanes); }

  // The first lane whose channel is in no block before.
  Size first_lane(Size block, int lanes) const { return block * lanes - channel(block, lanes); }
};

// Work in equal items: some whole images, or some rows of one.
struct Items {
  Size images, rows, images_each, rows_each, per_image, count;

  // An item has at least `least` pixels, where there are as many.
  Items(Size images, Size rows, Size columns, Size least) : images(images), rows(rows) {
    const Size most = 128, pixels = rows * columns;
    images_each = std::max<Size>({1, (least + pixels - 1) / pixels, (images + most - 1) / most});
    per_image = images_each > 1 ? 1
                                : std::min<Size>({rows, (pixels + least - 1) / least,
                                                  std::max<Size>(1, most / 4 / images)});
    rows_each = (rows + per_image - 1) / per_image;
    per_image = (rows + rows_each - 1) / rows_each;
    count = (images + images_each - 1) / images_each * per_image;
  }

  // Calls visit(image, first row, end of rows) for each image of an item.
  template <class Visit>
  void each_image(Size item, Visit visit) const {
    const Size from = item / per_image * images_each, row = item % per_image * rows_each;
    for (Size image = from; image < std::min(images, from + images_each); ++image)
      visit(image, row, std::min(rows, row + rows_each));
  }

  int threads(int most) const { return static_cast<int>(std::min<Size>(most, count)); }
};

// Memory kept from call to call.
struct Buffer {
  float* values = nullptr;
  Size held = 0;

  ~Buffer() { std::free(values); }

  float* of(Size wanted) {
    if (wanted > held) {
      std::free(values);
      held = 0;
      values = static_cast<float*>(std::aligned_alloc(64, (wanted + 15) / 16 * 64));
      if (!values) throw std::bad_alloc();
      held = wanted;
    }
    return values;
  }
};

thread_local Buffer rows_buffer, weights_buffer, sums_buffer;

// Weights as [block][tap][lane], from [channel][tap].
template <int taps, int lanes>
const float* packed(const Shape& shape, const float* weight) {
  float* const all = weights_buffer.of(shape.blocks(lanes) * taps * lanes);
  float* to = all;
  for (Size block = 0; block < shape.blocks(lanes); ++block)
    for (int tap = 0; tap < taps; ++tap)
      for (int lane = 0; lane < lanes; ++lane)
        *to++ = weight[(shape.channel(block, lanes) + lane) * taps + tap];
  return all;
}

// Bytes of an image that stay in a core's second cache while its blocks are gone through.
constexpr Size CACHED = 256 * 1024;

// `moments` are null, or [item][block][origin, sum, square][lane].
template <int kernel, int stride, int lanes, class Value>
void convolve(const Shape& shape, const Items& items, const Before& before, const Value* x,
              const float* weight, Value* y, float* moments, int threads) {
  const Size width = std::max(shape.left + shape.columns, (shape.out_columns - 1) * stride + kernel);
  const Size line = width * lanes, blocks = shape.blocks(lanes), apart = shape.channels;
  const float* const taps = packed<kernel * kernel, lanes>(shape, weight);
  // All rows of a block, then those of the next; or where images are large, row by row.
  const Size bytes = shape.rows * shape.columns * apart * sizeof(Value);
  const bool is_small = bytes <= CACHED;
  const Size together = is_small ? items.rows_each : 1, windows = is_small ? 1 : blocks;
  const Size capacity = (together - 1) * stride + kernel;
  // Of a thread: a row of zeros, and the windows.
  const Size each = (1 + windows * capacity) * line;
  float* const all = rows_buffer.of(items.threads(threads) * each);
#pragma omp parallel for num_threads(items.threads(threads)) schedule(static)
  for (Size item = 0; item < items.count; ++item) {
    float* const zeros = all + omp_get_thread_num() * each;
    std::memset(zeros, 0, 4 * each);
    bool is_first = true;
    items.each_image(item, [&](Size image, Size begin, Size end) {
      const Size place = image * shape.rows * shape.columns * apart;
      Size known = 0;
      for (Size out_row = begin; out_row < end; out_row += together) {
        const Size count = std::min(together, end - out_row), above = out_row * stride - shape.top;
        const Size next = std::max(above, known);
        known = std::min(shape.rows, above + (count - 1) * stride + kernel);
        for (Size block = 0; block < blocks; ++block) {
          const Size channel = shape.channel(block, lanes);
          const Window window{zeros + (1 + block % windows * capacity) * line, zeros, capacity, line,
                              shape.rows};
          before.known<lanes>([&](auto as) {
            widen_rows<lanes, typename decltype(as)::type>({before, channel, nullptr}, next, known,
                                                           shape.columns, apart, shape.left,
                                                           x + place + channel, window);
          });
          const float* const some = taps + block * kernel * kernel * lanes;
          Value* const to =
              y + (image * shape.out_rows + out_row) * shape.out_columns * apart + channel;
          if (!moments) {
            convolve_rows<kernel, stride, lanes, NoMoments<lanes>>(
                count, shape.out_columns, apart, window, above, some, nullptr, to);
            continue;
          }
          float* const sums = moments + (item * blocks + block) * 3 * lanes;
          if (is_first)  // the origin
            convolve_rows<kernel, stride, lanes, NoMoments<lanes>>(1, 1, 0, window, above, some,
                                                                   nullptr, sums);
          convolve_rows<kernel, stride, lanes, Moments<lanes>>(count, shape.out_columns, apart,
                                                               window, above, some, sums, to);
        }
        is_first = false;
      }
    });
  }
}

// Gives mean and mean squared deviation of each channel.
template <int lanes>
void settle(const Shape& shape, const Items& items, const float* moments, float* mean,
            float* variance, int threads) {
  const Size blocks = shape.blocks(lanes);
#pragma omp parallel for num_threads(items.threads(threads)) schedule(static)
  for (Size block = 0; block < blocks; ++block) {
    double count = 0.0, centre[lanes] = {}, squares[lanes] = {};
    for (Size item = 0; item < items.count; ++item) {
      double pixels = 0.0;
      items.each_image(item, [&](Size, Size begin, Size end) {
        pixels += (end - begin) * shape.out_columns;
      });
      const float* const all = moments + (item * blocks + block) * 3 * lanes;
      const double each = 1.0 / pixels, share = pixels / (count + pixels);
      for (int lane = 0; lane < lanes; ++lane) {
        const double offset = all[lanes + lane] * each;
        const double difference = all[lane] + offset - centre[lane];
        // Chan, Golub and LeVeque 1983: sums of squares of two parts.
        squares[lane] += all[2 * lanes + lane] - pixels * offset * offset;
        squares[lane] += difference * difference * count * share;
        centre[lane] += difference * share;
      }
      count += pixels;
    }
    const Size channel = shape.channel(block, lanes);
    for (Size lane = shape.first_lane(block, lanes); lane < lanes; ++lane) {
      mean[channel + lane] = static_cast<float>(centre[lane]);
      variance[channel + lane] = static_cast<float>(std::max(squares[lane] / count, 0.0));
    }
  }
}

template <int kernel, int stride, int lanes, class Value>
void forward(const Shape& shape, const Before& before, const Value* x, const float* weight, Value* y,
             float* mean, float* variance, int threads) {
  const Items items(shape.images, shape.out_rows, shape.out_columns, 64);
  float* moments = nullptr;
  if (mean) {
    const Size sums = items.count * shape.blocks(lanes) * 3 * lanes;
    moments = sums_buffer.of(sums);
    std::memset(moments, 0, 4 * sums);
  }
  convolve<kernel, stride, lanes>(shape, items, before, x, weight, y, moments, threads);
  if (mean) settle<lanes>(shape, items, moments, mean, variance, threads);
}

// Sums over all items of [item][block][`count`][lane], as `count` numbers a channel.
template <int lanes, class Number>
void add_up(const Shape& shape, const Items& items, const float* partial, Size first, Size count,
            Size width, Number* sums, int threads) {
  const Size blocks = shape.blocks(lanes);
#pragma omp parallel for num_threads(items.threads(threads)) schedule(static)
  for (Size block = 0; block < blocks; ++block)
    for (Size number = 0; number < count; ++number) {
      double sum[lanes] = {};
      for (Size item = 0; item < items.count; ++item) {
        const float* const part = partial + ((item * blocks + block) * width + first + number) * lanes;
        for (int lane = 0; lane < lanes; ++lane) sum[lane] += part[lane];
      }
      for (Size lane = shape.first_lane(block, lanes); lane < lanes; ++lane)
        sums[(shape.channel(block, lanes) + lane) * count + number] = static_cast<Number>(sum[lane]);
    }
}

template <int kernel, int stride, int lanes, class Value>
void backward(const Shape& shape, const Before& before, const Value* gradient, const Value* x,
              const float* weight, Value* of_x, float* of_weight, double* norm_sums, int threads) {
  constexpr Size reach = (kernel + stride - 1) / stride, taps = kernel * kernel, width = taps + 2;
  const Size blocks = shape.blocks(lanes), apart = shape.channels;
  const Size positions = std::max((shape.left + shape.columns) / stride + 1, shape.out_columns);
  const Size line = (reach - 1 + positions) * lanes;
  const float* const all_taps = packed<taps, lanes>(shape, weight);
  const Items items(shape.images, shape.rows, shape.columns, 8 * taps);
  const Size sums = items.count * blocks * width * lanes;
  float* const partial = sums_buffer.of(sums);
  std::memset(partial, 0, 4 * sums);
  const Size image_size = shape.rows * shape.columns * apart;
  const bool is_small = image_size * static_cast<Size>(sizeof(Value)) <= CACHED;
  const Size together = is_small ? items.rows_each : 1, windows = is_small ? 1 : blocks;
  const Size capacity = reach + (together - 1) / stride + 1;
  // Of a thread: windows of the gradient, a row of zeros, and one of the input's gradient.
  const Size lines = (windows * capacity + 1) * line, each = lines + shape.columns * lanes;
  float* const all = rows_buffer.of(items.threads(threads) * each);
#pragma omp parallel for num_threads(items.threads(threads)) schedule(static)
  for (Size item = 0; item < items.count; ++item) {
    float* const own_rows = all + omp_get_thread_num() * each;
    float *const zeros = own_rows + (reach - 1) * lanes, *const part = own_rows + lines;
    std::memset(own_rows, 0, 4 * lines);
    items.each_image(item, [&](Size image, Size begin, Size end) {
      const Value* const from = gradient + image * shape.out_rows * shape.out_columns * apart;
      Size known = 0;
      for (Size row = begin; row < end; row += together) {
        const Size stop = std::min(end, row + together);
        const Size next = std::max((row + shape.top) / stride - reach + 1, known);
        known = std::min(shape.out_rows, (stop - 1 + shape.top) / stride + 1);
        for (Size block = 0; block < blocks; ++block) {
          const Size channel = shape.channel(block, lanes);
          float* const own_sums = partial + (item * blocks + block) * width * lanes;
          const Window window{zeros + (1 + block % windows * capacity) * line, zeros, capacity, line,
                              shape.out_rows};
          const Channels some{before, channel, own_sums + taps * lanes};
          widen_rows<lanes, Nothing<lanes>>(some, next, known, shape.out_columns, apart, 0,
                                            from + channel, window);
          const Size place = image * image_size + channel;
          const float* const own_taps = all_taps + block * taps * lanes;
          before.known<lanes>([&](auto as) {
            for (Size each_row = row; each_row < stop; ++each_row) {
              const Size at = place + each_row * shape.columns * apart;
              const Row<Value> here{shape.columns, shape.left, apart,
                                    each_row + 1 < shape.rows ? shape.columns * apart : 0, x + at,
                                    of_x + at};
              go_back<kernel, stride, lanes, typename decltype(as)::type>(
                  some, here, window, each_row + shape.top, own_taps, own_sums, part);
            }
          });
        }
      }
    });
  }
  add_up<lanes>(shape, items, partial, 0, taps, width, of_weight, threads);
  if (norm_sums) add_up<lanes>(shape, items, partial, taps, 2, width, norm_sums, threads);
}

// Calls work(kernel, stride, lanes) with constants.
template <class Work>
int with_constants(const Shape& shape, Size kernel, Size stride, Work work) {
  const auto with_lanes = [&](auto k, auto s) {
    if (shape.channels < LANES)
      work(k, s, std::integral_constant<int, 4>());
    else
      work(k, s, std::integral_constant<int, LANES>());
  };
  const auto with_stride = [&](auto k) {
    if (stride == 1)
      with_lanes(k, std::integral_constant<int, 1>());
    else
      with_lanes(k, std::integral_constant<int, 2>());
  };
  return without_exceptions([&] {
    if (kernel == 3)
      with_stride(std::integral_constant<int, 3>());
    else if (kernel == 5)
      with_stride(std::integral_constant<int, 5>());
    else
      with_stride(std::integral_constant<int, 7>());
  });
}

}  // namespace

#define SHAPE                                                                                     \
  Size images, Size channels, Size rows, Size columns, Size out_rows, Size out_columns, Size top, \
      Size left, Size kernel, Size stride
#define NORM ACTIVATION, const float *scale, const float *shift, const float *norm_mean

#define DEFINE(VALUE, TYPE)                                                                       \
  extern "C" int depthwise_forward_##TYPE(SHAPE, const VALUE* x, const float* weight, VALUE* y,   \
                                          float* mean, float* variance, NORM, int threads) {      \
    const Shape shape{images, channels, rows, columns, out_rows, out_columns, top, left};         \
    const Before before{activation, {low, high}, scale, shift, norm_mean};                        \
    return with_constants(shape, kernel, stride, [&](auto k, auto s, auto lanes) {                \
      forward<k(), s(), lanes()>(shape, before, x, weight, y, mean, variance, threads);           \
    });                                                                                           \
  }                                                                                               \
  extern "C" int depthwise_backward_##TYPE(SHAPE, const VALUE* gradient, const VALUE* x,          \
                                           const float* weight, VALUE* of_x, float* of_weight,    \
                                           double* norm_sums, NORM, int threads) {                \
    const Shape shape{images, channels, rows, columns, out_rows, out_columns, top, left};         \
    const Before before{activation, {low, high}, scale, shift, norm_mean};                        \
    return with_constants(shape, kernel, stride, [&](auto k, auto s, auto lanes) {                \
      backward<k(), s(), lanes()>(shape, before, gradient, x, weight, of_x, of_weight, norm_sums, \
                                  threads);                                                       \
    });                                                                                           \
  }

DEFINE(float, float32)
DEFINE(BFloat16, bfloat16)
