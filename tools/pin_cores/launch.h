/* launch.h - how a claim of `pin_cores run` is told from a machine's. */
#ifndef TOOLS_PIN_CORES_LAUNCH_H
#define TOOLS_PIN_CORES_LAUNCH_H

#define LAUNCH_ENGINE "program" /* in the place of a machine's engine */

#endif
