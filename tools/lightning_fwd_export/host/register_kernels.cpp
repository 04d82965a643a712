// Registers the C kernels of csrc/ with the ExecuTorch runtime of the Python wheel, so that a program runs on the host with the very
// code that goes to the board. Arguments arrive in schema order; the last one repeats the output.
#include <executorch/runtime/core/evalue.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include <vector>

extern "C" {
#include "lfwd_float.h"
#include "lfwd_int8.h"
}

using executorch::aten::Tensor;
using executorch::runtime::EValue;
using executorch::runtime::Kernel;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;
using Args = Span<EValue *>;

namespace {
Tensor tensor(Args a, size_t k) { return a[k]->toTensor(); }
int32_t integer(Args a, size_t k) { return static_cast<int32_t>(a[k]->toInt()); }
float real(Args a, size_t k) { return static_cast<float>(a[k]->isDouble() ? a[k]->toDouble() : a[k]->toInt()); }
int32_t item(Args a, size_t k, size_t i) {
    auto list = a[k]->toIntList();
    return static_cast<int32_t>(list[list.size() == 1 ? 0 : i]);
}
int32_t count(Args a, size_t k) { return static_cast<int32_t>(tensor(a, k).numel()); }
int32_t size(Args a, size_t k, ssize_t d) { return static_cast<int32_t>(tensor(a, k).size(d)); }
template <typename T> T *data(Args a, size_t k) {
    if (a[k]->isNone()) return nullptr;
    return static_cast<T *>(const_cast<void *>(tensor(a, k).const_data_ptr()));
}
int8_t *s8(Args a, size_t k) { return data<int8_t>(a, k); }
int32_t *s32(Args a, size_t k) { return data<int32_t>(a, k); }
float *f32(Args a, size_t k) { return data<float>(a, k); }

void quantize(KernelRuntimeContext &, Args a) {
    lfwd_quantize_s8(f32(a, 0), count(a, 0), real(a, 1), integer(a, 2), integer(a, 3), integer(a, 4), s8(a, 6));
}
void dequantize(KernelRuntimeContext &, Args a) {
    lfwd_dequantize_s8(s8(a, 0), count(a, 0), real(a, 1), integer(a, 2), f32(a, 6));
}
void add(KernelRuntimeContext &, Args a) {
    lfwd_add_s8_params p = {integer(a, 1), integer(a, 2), integer(a, 3), integer(a, 5), integer(a, 6), integer(a, 7),
                            integer(a, 8), integer(a, 9), integer(a, 10), integer(a, 11), integer(a, 12)};
    lfwd_add_s8(&p, s8(a, 0), s8(a, 4), count(a, 13), s8(a, 13));
}
void mul(KernelRuntimeContext &, Args a) {
    lfwd_mul_s8(s8(a, 0), integer(a, 1), s8(a, 2), integer(a, 3), integer(a, 4), integer(a, 5), integer(a, 6),
                count(a, 7), s8(a, 7));
}
// Padding is given for both sides of a dimension, or as (top, left, bottom, right): the first two serve for either.
// Stride at `stride`, then padding and dilation; kernel size at dimensions 1 and 2 of the weight in both layouts. Not narrow: plain C.
lfwd_conv2d_s8_params conv_params(Args a, size_t stride, int32_t kernel_c, size_t offsets, size_t range, size_t out) {
    return {size(a, 0, 0), size(a, 0, 2), size(a, 0, 3), size(a, 0, 1), size(a, out, 2), size(a, out, 3),
            size(a, out, 1), size(a, 1, 1), size(a, 1, 2), kernel_c, item(a, stride, 0), item(a, stride, 1),
            item(a, stride + 1, 0), item(a, stride + 1, 1), item(a, stride + 2, 0), item(a, stride + 2, 1),
            integer(a, offsets), integer(a, offsets + 1), integer(a, range), integer(a, range + 1), 0};
}
// What the exporter adds up for a board: bias + offset * sum of an output's weights; weight k of output o at o * row + k * step.
std::vector<int32_t> start(Args a, int32_t outputs, int32_t weights, int32_t row, int32_t step, int32_t offset, int32_t filter_offset) {
    std::vector<int32_t> sums(static_cast<size_t>(outputs));
    const int8_t *w = s8(a, 1);
    const int32_t *bias = s32(a, 2);
    for (int32_t o = 0; o < outputs; o++) {
        int32_t sum = 0;
        for (int32_t k = 0; k < weights; k++) sum += w[o * row + k * step] + filter_offset;
        sums[static_cast<size_t>(o)] = (bias ? bias[o] : 0) + offset * sum;
    }
    return sums;
}
void conv2d(KernelRuntimeContext &, Args a) {
    const lfwd_conv2d_s8_params p = conv_params(a, 3, size(a, 1, 3), 6, 10, 13);
    const int32_t weights = p.kernel_h * p.kernel_w * p.kernel_c;
    lfwd_conv2d_s8(&p, s8(a, 0), s8(a, 1), start(a, p.out_c, weights, weights, 1, p.input_offset, 0).data(), s32(a, 8), s32(a, 9),
                   nullptr, 0, s8(a, 13));
}
void depthwise(KernelRuntimeContext &, Args a) {
    const lfwd_conv2d_s8_params p = conv_params(a, 3, 1, 7, 11, 14);
    lfwd_depthwise_conv2d_s8(&p, s8(a, 0), s8(a, 1), start(a, p.out_c, p.kernel_h * p.kernel_w, 1, p.out_c, p.input_offset, 0).data(),
                             s32(a, 9), s32(a, 10), nullptr, 0, s8(a, 14));
}
void linear(KernelRuntimeContext &, Args a) {
    const int32_t in_features = size(a, 1, 1), out_features = size(a, 1, 0);
    const lfwd_linear_s8_params p = {count(a, 0) / in_features, in_features, out_features, integer(a, 5), integer(a, 6),
                                     item(a, 7, 0), item(a, 8, 0), integer(a, 10), integer(a, 9), 0};
    lfwd_linear_s8(&p, s8(a, 0), s8(a, 1),
                   start(a, out_features, in_features, in_features, 1, integer(a, 4), p.filter_offset).data(), s8(a, 11));
}
lfwd_pool_s8_params pool_params(Args a, size_t out, int32_t low, int32_t high) {
    return {size(a, 0, 0), size(a, 0, 2), size(a, 0, 3), size(a, 0, 1), size(a, out, 2), size(a, out, 3), item(a, 1, 0),
            item(a, 1, 1), item(a, 2, 0), item(a, 2, 1), item(a, 3, 0), item(a, 3, 1), low, high};
}
void avg_pool2d(KernelRuntimeContext &, Args a) {
    const size_t out = a.size() - 1;  // cortex_m:: and lfwd:: differ in what stands between
    const lfwd_pool_s8_params p = pool_params(a, out, -128, 127);
    lfwd_avg_pool2d_s8(&p, s8(a, 0), s8(a, out));
}
void max_pool2d(KernelRuntimeContext &, Args a) {
    const lfwd_pool_s8_params p = pool_params(a, 10, integer(a, 8), integer(a, 9));
    lfwd_max_pool2d_s8(&p, s8(a, 0), s8(a, 10));
}
void maximum(KernelRuntimeContext &, Args a) { lfwd_maximum_s8(s8(a, 0), s8(a, 1), count(a, 2), s8(a, 2)); }
void minimum(KernelRuntimeContext &, Args a) { lfwd_minimum_s8(s8(a, 0), s8(a, 1), count(a, 2), s8(a, 2)); }
void lookup(KernelRuntimeContext &, Args a) { lfwd_lookup_s8(s8(a, 0), s8(a, 1), count(a, 0), s8(a, 2)); }
void pad(KernelRuntimeContext &, Args a) {
    int32_t sizes[4] = {1, 1, 1, 1}, before[4], after[4];
    const auto x = tensor(a, 0);
    // of one channel, or one pixel, both layouts are the same memory: there the dialect counts channels last
    const bool last = x.dim() == 4 && (x.size(1) == 1 || (x.size(2) == 1 && x.size(3) == 1));
    const ssize_t channels_last[4] = {0, 2, 3, 1};
    for (ssize_t d = 0; d < x.dim(); d++)
        sizes[4 - x.dim() + d] = size(a, 0, last ? channels_last[d] : x.dim_order()[static_cast<size_t>(d)]);
    for (size_t d = 0; d < 4; d++) before[d] = item(a, 1, d), after[d] = item(a, 2, d);
    lfwd_pad_s8(s8(a, 0), sizes, before, after, static_cast<int8_t>(integer(a, 3)), s8(a, 4));
}

void transpose(KernelRuntimeContext &, Args a) {
    const auto x = tensor(a, 0), out = tensor(a, 2);
    lfwd_strides s = {{1, 1, 1, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    for (ssize_t d = 0, k = 4 - out.dim(); d < out.dim(); d++, k++) {
        s.size[k] = size(a, 2, d);
        s.in[k] = static_cast<int32_t>(x.strides()[static_cast<size_t>(item(a, 1, static_cast<size_t>(d)))]);
        s.out[k] = static_cast<int32_t>(out.strides()[static_cast<size_t>(d)]);
    }
    lfwd_copy_strided(data<void>(a, 0), &s, static_cast<int32_t>(x.element_size()), data<void>(a, 2));
}

void sgd(KernelRuntimeContext &, Args a) { lfwd_sgd_f32(f32(a, 0), f32(a, 1), count(a, 0), real(a, 2), real(a, 3)); }
void sgd_outer(KernelRuntimeContext &, Args a) {
    lfwd_sgd_outer_f32(f32(a, 0), f32(a, 1), f32(a, 2), size(a, 1, 0), size(a, 1, 1), size(a, 2, 1), real(a, 3),
                       real(a, 4));
}
void sgd_part(KernelRuntimeContext &, Args a) {
    const auto state = tensor(a, 0);
    lfwd_axis axis = {1, size(a, 0, integer(a, 3)), 1};
    for (ssize_t d = 0; d < state.dim(); d++) (d < integer(a, 3) ? axis.outer : axis.inner) *= d == integer(a, 3) ? 1 : size(a, 0, d);
    lfwd_sgd_part_f32(f32(a, 0), axis, f32(a, 1), data<int64_t>(a, 2), count(a, 2), real(a, 4), real(a, 5));
}
// x, weight and output gradient at these positions; stride, padding, dilation and groups from `stride` on.
lfwd_conv2d_shape conv_shape(Args a, size_t x, size_t weight, size_t grad, size_t stride) {
    const ssize_t flat = tensor(a, weight).dim() == 3 ? 1 : 0;  // a 1-d convolution is a 2-d one of height 1
    const auto spatial = [&](size_t k, ssize_t d) { return flat && d == 0 ? 1 : size(a, k, 2 + d - flat); };
    const auto pair = [&](size_t k, size_t d, int32_t lead) { return flat && d == 0 ? lead : item(a, k, d - static_cast<size_t>(flat)); };
    return {size(a, x, 0), size(a, x, 1), spatial(x, 0), spatial(x, 1), size(a, grad, 1), spatial(grad, 0), spatial(grad, 1),
            spatial(weight, 0), spatial(weight, 1), pair(stride, 0, 1), pair(stride, 1, 1), pair(stride + 1, 0, 0),
            pair(stride + 1, 1, 0), pair(stride + 2, 0, 1), pair(stride + 2, 1, 1), integer(a, stride + 3)};
}
using Scratch = std::vector<float>;  // on a device it is planned
void sgd_conv2d(KernelRuntimeContext &, Args a) {
    const lfwd_conv2d_shape s = conv_shape(a, 2, 0, 1, 5);
    Scratch scratch(static_cast<size_t>(lfwd_sgd_conv2d_scratch(&s)));
    lfwd_sgd_conv2d_f32(f32(a, 0), f32(a, 1), f32(a, 2), &s, real(a, 3), real(a, 4), scratch.data());
}
void conv2d_grad_input(KernelRuntimeContext &, Args a) {
    const lfwd_conv2d_shape s = conv_shape(a, 7, 1, 0, 3);
    Scratch scratch(static_cast<size_t>(lfwd_conv2d_grad_input_scratch(&s)));
    lfwd_conv2d_grad_input_f32(f32(a, 0), f32(a, 1), &s, scratch.data(), f32(a, 7));
}
void conv2d_grad_weight(KernelRuntimeContext &, Args a) {
    const lfwd_conv2d_shape s = conv_shape(a, 1, 7, 0, 3);
    Scratch scratch(static_cast<size_t>(lfwd_sgd_conv2d_scratch(&s)));
    lfwd_conv2d_grad_weight_f32(f32(a, 0), f32(a, 1), &s, scratch.data(), f32(a, 7));
}
void relu_backward(KernelRuntimeContext &, Args a) {
    lfwd_relu_backward_f32(f32(a, 0), f32(a, 1), count(a, 2), f32(a, 2));
}
void positive_bits(KernelRuntimeContext &, Args a) {
    lfwd_positive_bits_f32(f32(a, 0), count(a, 0), data<uint8_t>(a, 1));
}
void where_bits(KernelRuntimeContext &, Args a) {
    lfwd_where_bits_f32(f32(a, 0), data<uint8_t>(a, 1), count(a, 0), f32(a, 2));
}
void modulate_from_seed(KernelRuntimeContext &, Args a) {
    const int32_t batch = size(a, 1, 0);
    lfwd_modulate_from_seed_f32(f32(a, 0), f32(a, 1), batch, count(a, 0) / batch, size(a, 1, 1), a[2]->toInt(), real(a, 3),
                                f32(a, 4));
}
void avg_pool2d_backward(KernelRuntimeContext &, Args a) {
    const auto g = tensor(a, 0), x = tensor(a, 1);
    const size_t stride = a[3]->toIntList().size() ? 3 : 2;
    const ssize_t h = x.dim() - 2, w = x.dim() - 1;
    const lfwd_pool2d_shape s = {static_cast<int32_t>(g.numel() / (g.size(h) * g.size(w))), size(a, 1, h), size(a, 1, w),
                                 size(a, 0, h), size(a, 0, w), item(a, 2, 0), item(a, 2, 1), item(a, stride, 0),
                                 item(a, stride, 1), item(a, 4, 0), item(a, 4, 1), 1, 1, a[6]->toBool(),
                                 a[7]->isNone() ? 0 : integer(a, 7)};
    lfwd_avg_pool2d_backward_f32(f32(a, 0), &s, f32(a, 8));
}
int32_t plane(Args a, size_t k) { return size(a, k, tensor(a, k).dim() - 2) * size(a, k, tensor(a, k).dim() - 1); }
void max_pool2d_backward(KernelRuntimeContext &, Args a) {
    lfwd_max_pool2d_backward_f32(f32(a, 0), data<int64_t>(a, 2), count(a, 0) / plane(a, 0), plane(a, 3), plane(a, 0), f32(a, 3));
}
void adaptive_avg_pool2d_backward(KernelRuntimeContext &, Args a) {
    const ssize_t h = tensor(a, 0).dim() - 2, w = h + 1;
    const lfwd_pool2d_shape s = {count(a, 0) / plane(a, 0), size(a, 2, h), size(a, 2, w), size(a, 0, h), size(a, 0, w)};
    lfwd_adaptive_avg_pool2d_backward_f32(f32(a, 0), &s, f32(a, 2));
}

void transport(KernelRuntimeContext &, Args a) {
    const int32_t n = count(a, 0);
    const int64_t *samples = data<int64_t>(a, 2);
    if (tensor(a, 1).dim() == 1) return lfwd_scaling_f32(f32(a, 0), f32(a, 1), samples, f32(a, 3), n, 0.01f * real(a, 5), real(a, 6), f32(a, 7));
    Scratch scratch(static_cast<size_t>(n) * static_cast<size_t>(n + 2));
    lfwd_transport_f32(f32(a, 0), f32(a, 1), samples, f32(a, 3), data<int16_t>(a, 4), n, real(a, 5), real(a, 6), scratch.data(), f32(a, 7));
}
void fold(KernelRuntimeContext &, Args a) {
    const int32_t outputs = size(a, 0, 0), row = count(a, 0) / outputs, n = size(a, 1, 0);
    const bool single = tensor(a, 1).dim() == 1;
    const int32_t read = single ? size(a, 0, 1) : n;
    Scratch scratch(static_cast<size_t>(n));
    const lfwd_axis axis = {outputs, read, row / read};
    if (single)
        lfwd_fold_single_f32(f32(a, 0), f32(a, 1), axis, integer(a, 2));
    else
        lfwd_fold_f32(f32(a, 0), f32(a, 1), axis, scratch.data());
}
Kernel kernels[] = {
    Kernel("cortex_m::quantize_per_tensor.out", quantize),
    Kernel("cortex_m::dequantize_per_tensor.out", dequantize),
    Kernel("cortex_m::quantized_add.out", add),
    Kernel("cortex_m::quantized_mul.out", mul),
    Kernel("cortex_m::quantized_conv2d.out", conv2d),
    Kernel("cortex_m::quantized_depthwise_conv2d.out", depthwise),
    Kernel("cortex_m::quantized_linear.out", linear),
    Kernel("cortex_m::quantized_avg_pool2d.out", avg_pool2d),
    Kernel("cortex_m::quantized_max_pool2d.out", max_pool2d),
    Kernel("cortex_m::maximum.out", maximum),
    Kernel("cortex_m::minimum.out", minimum),
    Kernel("cortex_m::quantized_activation.out", lookup),
    Kernel("cortex_m::pad.out", pad),
    Kernel("cortex_m::transpose.out", transpose),
    Kernel("lfwd::quantized_conv2d.out", conv2d),
    Kernel("lfwd::quantized_depthwise_conv2d.out", depthwise),
    Kernel("lfwd::quantized_avg_pool2d.out", avg_pool2d),
    Kernel("lfwd::sgd_", sgd),
    Kernel("lfwd::sgd_outer_", sgd_outer),
    Kernel("lfwd::sgd_conv2d_", sgd_conv2d),
    Kernel("lfwd::sgd_part_", sgd_part),
    Kernel("lfwd::transport.out", transport),
    Kernel("lfwd::fold_", fold),
    Kernel("lfwd::relu_backward.out", relu_backward),
    Kernel("lfwd::positive_bits.out", positive_bits),
    Kernel("lfwd::where_bits.out", where_bits),
    Kernel("lfwd::modulate_from_seed.out", modulate_from_seed),
    Kernel("lfwd::avg_pool2d_backward.out", avg_pool2d_backward),
    Kernel("lfwd::max_pool2d_backward.out", max_pool2d_backward),
    Kernel("lfwd::adaptive_avg_pool2d_backward.out", adaptive_avg_pool2d_backward),
    Kernel("lfwd::conv2d_grad_input.out", conv2d_grad_input),
    Kernel("lfwd::conv2d_grad_weight.out", conv2d_grad_weight),
};
const auto registered = executorch::runtime::register_kernels({kernels, sizeof kernels / sizeof kernels[0]});
}  // namespace
