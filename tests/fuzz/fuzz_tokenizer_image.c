/* Any bytes as a tokenizer image: it is refused with a reason, or a tokenizer that answers whatever
 * it is asked. The corpus has the images of the small vocabularies (test_tokenizer_image.c compares
 * them with what is built). */
#include "text/small_vocabulary.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *tokenizer;
    serverd_error err;
    void *image = malloc(size ? size : 1); /* aligned, and of its own size */
    if (!image)
        return 0;
    memcpy(image, data, size);
    if (tokenizer_open(image, size, &tokenizer, &err) == SERVERD_OK) {
        (void)exercise_tokenizer(tokenizer);
        tokenizer_destroy(tokenizer);
    } else if (err.text[0] == '\0') {
        abort();
    }
    free(image);
    return 0;
}
