#include "server/request/modality.h"

#include <stddef.h>
#include <string.h>

bool modality_is_other(const char *type)
{
    static const char *const types[] = {
        "image_url",   "input_audio", "file",  "video_url", "audio_url", /* chat */
        "input_image", "input_file",                                     /* Responses */
        "image",       "document",    "audio", "video",                  /* Messages, others */
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i], type) == 0)
            return true;
    return false;
}
