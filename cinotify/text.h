/* Frames as lines for a person. See text.c. */
#ifndef TEXT_H
#define TEXT_H

#include "frame.h"

#include <stdint.h>
#include <stdio.h>

/* Print whole frames, one line each. Returns 0, -EINVAL for bytes that are none, or -EPIPE. */
int text_print(const uint8_t *data, size_t size, const char *separator, FILE *out);

#endif
