/* What a part of a message is, if it is no text: models read text only, and a part that would be
 * dropped in silence changes what was asked. */
#ifndef SERVER_REQUEST_MODALITY_H
#define SERVER_REQUEST_MODALITY_H

#include <stdbool.h>

/* Behind the place where it was found. The code is "unsupported_modality". */
#define MODALITY_REFUSAL                                                                           \
    "this model reads text only; images, audio, video and files are not supported."

/* Is this type of a part, in any dialect, one of an image, of sound, of a video or of a file? */
bool modality_is_other(const char *type);

#endif
