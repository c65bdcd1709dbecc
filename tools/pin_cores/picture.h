/* picture.h - a scene as an SVG picture: the machine as nested boxes, actors in colours. */
#ifndef TOOLS_PIN_CORES_PICTURE_H
#define TOOLS_PIN_CORES_PICTURE_H

#include "scene.h"

#include <stdio.h>

/* The scene's actors are seated. -ENOMEM; what @out could not take, ferror() tells. */
int picture_draw(FILE *out, const struct scene *s);

#endif
