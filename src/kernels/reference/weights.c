/* Weights of any type as floats, from the file's rows or from what the CPU back-end packed. */
#include "kernels/cpu/packed.h"
#include "kernels/reference/matmul.h"
#include "kernels/reference/reference_internal.h"
#include "program/dtype.h"

void reference_read_weights(const struct reference_step *step, uint32_t tensor, size_t row,
                            size_t begin, size_t n, float *out)
{
    const serverd_tensor *t = &step->graph->tensors[tensor];
    const struct dtype_info *info = dtype_info(t->dtype);
    const size_t k = t->dims[1], n_blocks = n / info->block_elements;
    if (t->data) {
        size_t block = (row * k + begin) / info->block_elements;
        info->to_f32((const char *)t->data + block * info->block_bytes, out, n_blocks);
        return;
    }
    char blocks[REFERENCE_SPAN * sizeof(float)]; /* no form has more than four bytes a number */
    packed_read_part(t->dtype, k, step->packed[tensor], row, begin, n, blocks);
    info->to_f32(blocks, out, n_blocks);
}
