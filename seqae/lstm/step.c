/* The pointwise half of an LSTM step, forward and backward. compiled.py compiles it, unrolled.py calls it. */
__attribute__((simd("notinbranch"))) float expf(float);
__attribute__((simd("notinbranch"))) float tanhf(float);
enum { WIDE = 256, SMALL = 8192 }; /* columns of a buffer; from SMALL elements on, two threads took 0.6 of the time */
static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* A matrix has H rows (features) and B columns (sequences). A matrix of all gates has 4 H rows: i, f, g, o. p: the 3 H
   peepholes of i, f and o, or 0. All are contiguous float32, unless a distance between rows or columns is given. */

/* One step forward. Reads the sum of product (4 H, B), or 0, and add (4 H, B), whose rows are add_row and whose columns
   are add_column elements apart, and before (H, B), the last c. Writes z (4 H, B), which is i, f, tanh(c), o; and g, c
   and h, each (H, B). This function takes the rows from j to end. */
static void forward_rows(const float *restrict product, const float *restrict add, long add_row, long add_column,
                         float *restrict z, float *restrict g, const float *restrict before, float *restrict c,
                         float *restrict h, const float *restrict p, long H, long B, long j, long end) {
  float sum[4][WIDE];
  for (; j < end; j++)
    for (long first = 0; first < B; first += WIDE) {
      long wide = B - first < WIDE ? B - first : WIDE, n = H * B, at = j * B + first;
      float p_i = p ? p[j] : 0, p_f = p ? p[H + j] : 0, p_o = p ? p[2 * H + j] : 0;
      for (long gate = 0; gate < 4; gate++) {
        const float *own = product + gate * n + at, *more = add + (gate * H + j) * add_row + first * add_column;
        if (add_column == 0) for (long k = 0; k < wide; k++) sum[gate][k] = *more;
        else if (add_column == 1) for (long k = 0; k < wide; k++) sum[gate][k] = more[k];
        else for (long k = 0; k < wide; k++) sum[gate][k] = more[k * add_column];
        if (product) for (long k = 0; k < wide; k++) sum[gate][k] += own[k];
      }
      for (long k = 0; k < wide; k++) {
        float last = before[at + k], new = tanhf(sum[2][k]);
        float i = sigmoid(sum[0][k] + p_i * last), f = sigmoid(sum[1][k] + p_f * last), cell = f * last + i * new;
        float o = sigmoid(sum[3][k] + p_o * cell), t = tanhf(cell);
        z[at + k] = i, z[n + at + k] = f, z[2 * n + at + k] = t, z[3 * n + at + k] = o;
        g[at + k] = new, c[at + k] = cell, h[at + k] = o * t;
      }
    }
}

/* One step backward. Reads what forward has left and d_h (H, B), the gradient of h. Writes d (4 H, B), the gradient of
   product + add, whose rows are d_row elements apart. d_c (H, B), the gradient of c, becomes that of the c before. */
static void backward_rows(const float *restrict z, const float *restrict g, const float *restrict before,
                          const float *restrict c, const float *restrict d_h, float *restrict d_c, float *restrict d,
                          long d_row, const float *restrict p, long H, long B, long j, long end) {
  for (; j < end; j++) {
    float p_i = p ? p[j] : 0, p_f = p ? p[H + j] : 0, p_o = p ? p[2 * H + j] : 0;
    for (long k = 0; k < B; k++) {
      long at = j * B + k, to = j * d_row + k, n = H * B, m = H * d_row;
      float i = z[at], f = z[n + at], t = z[2 * n + at], o = z[3 * n + at], new = g[at];
      float d_o = d_h[at] * t * o * (1 - o), d_cell = d_c[at] + d_h[at] * o * (1 - t * t) + d_o * p_o;
      float d_i = d_cell * new * i * (1 - i), d_f = d_cell * before[at] * f * (1 - f);
      d[to] = d_i, d[m + to] = d_f, d[2 * m + to] = d_cell * i * (1 - new * new), d[3 * m + to] = d_o;
      d_c[at] = d_cell * f + d_i * p_i + d_f * p_f;
    }
  }
}

/* Gives each thread its rows, j to end. The loops stand in functions of their own: in the parallel region itself gcc
   loses `restrict`, and they took three times as long. */
#define SHARED(call) \
  _Pragma("omp parallel if (H * B >= SMALL)") { \
    long n = omp_get_num_threads(), own = omp_get_thread_num(), j = H * own / n, end = H * (own + 1) / n; call; }
int omp_get_num_threads(void), omp_get_thread_num(void);

void forward(const float *product, const float *add, long add_row, long add_column, float *z, float *g,
             const float *before, float *c, float *h, const float *p, long H, long B) {
  SHARED(forward_rows(product, add, add_row, add_column, z, g, before, c, h, p, H, B, j, end))
}

void backward(const float *z, const float *g, const float *before, const float *c, const float *d_h, float *d_c,
              float *d, long d_row, const float *p, long H, long B) {
  SHARED(backward_rows(z, g, before, c, d_h, d_c, d, d_row, p, H, B, j, end))
}
