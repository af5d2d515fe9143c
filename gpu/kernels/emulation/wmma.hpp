// Products of 16×16 matrices that a warp holds together, as CUDA's mma.h has them.
//
// Which lane holds what is nobody's business; here elements are scattered, so that a kernel that relies on an order fails.
// Fragments begin as NaN.

#pragma once

namespace nvcuda {
namespace wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class V, class Layout = void> struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "the emulation knows one shape");
    // A warp's lanes hold each factor twice, as on cards.
    static constexpr int num_elements = std::is_same_v<Use, accumulator> ? 8 : 16;
    V x[num_elements];

    fragment() { memset(x, 0xff, sizeof x); }
};

constexpr int HELD = 8;

inline int number(int element, unsigned lane) { return (element % HELD * 32 + lane) * 77 % 256; }
inline int row_of(int element, unsigned lane) { return number(element, lane) / 16; }
inline int column_of(int element, unsigned lane) { return number(element, lane) % 16; }

template <class V> void check(const V *p, unsigned stride, emulation::Site site) {
    if (reinterpret_cast<uintptr_t>(p) % 32) emulation::refuse("a matrix that is not aligned to 32 bytes", site);
    if (stride * sizeof(V) % 16) emulation::refuse("a matrix whose rows are not aligned to 16 bytes", site);
}

inline size_t offset(int element, unsigned stride, bool by_rows) {
    const int row = row_of(element, threadIdx.x % 32), column = column_of(element, threadIdx.x % 32);
    return by_rows ? row * stride + column : column * stride + row;
}

template <class F, class V> void fill_fragment(F &f, V value) {
    for (auto &x : f.x) x = value;
}

template <class Use, class V, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, V, Layout> &f, const V *p, unsigned stride, WAITS) {
    check(p, stride, {file, line});
    for (int i = 0; i < f.num_elements; i++) f.x[i] = p[offset(i, stride, std::is_same_v<Layout, row_major>)];
}

template <class V>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, V> &f, const V *p, unsigned stride, layout_t layout, WAITS) {
    check(p, stride, {file, line});
    for (int i = 0; i < f.num_elements; i++) f.x[i] = p[offset(i, stride, layout == mem_row_major)];
}

template <class V>
void store_matrix_sync(V *p, const fragment<accumulator, 16, 16, 16, V> &f, unsigned stride, layout_t layout, WAITS) {
    check(p, stride, {file, line});
    for (int i = 0; i < f.num_elements; i++) p[offset(i, stride, layout == mem_row_major)] = f.x[i];
}

// d ← a b + c
template <class V, class ByA, class ByB>
void mma_sync(fragment<accumulator, 16, 16, 16, float> &d, const fragment<matrix_a, 16, 16, 16, V, ByA> &a,
              const fragment<matrix_b, 16, 16, 16, V, ByB> &b, const fragment<accumulator, 16, 16, 16, float> &c, WAITS) {
    struct Operands {
        float *d;
        const V *a, *b;
        const float *c;
    } operands{d.x, a.x, b.x, c.x};
    const auto act = [](void *const brought[32]) {
        float a[16][16], b[16][16], c[16][16];
        for (int lane = 0; lane < 32; lane++) {
            const auto *from = static_cast<const Operands *>(brought[lane]);
            for (int i = 0; i < HELD; i++) {
                const int row = row_of(i, lane), column = column_of(i, lane);
                a[row][column] = to_float(from->a[i]);
                b[row][column] = to_float(from->b[i]);
                c[row][column] = from->c[i];
            }
        }
        for (int row = 0; row < 16; row++) {
            for (int k = 0; k < 16; k++) {
                for (int column = 0; column < 16; column++) c[row][column] += a[row][k] * b[k][column];
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            float *to = static_cast<const Operands *>(brought[lane])->d;
            for (int i = 0; i < HELD; i++) to[i] = c[row_of(i, lane)][column_of(i, lane)];
        }
    };
    emulation::with_warp(&operands, act, {file, line});
}

} // namespace wmma
} // namespace nvcuda
