/* The fault delegate: passes everything on to another one and fails by script. Options:
 *   inner=NAME        the delegate that does the work (null); comes before inner.KEY
 *   inner.KEY=VALUE   an option of that delegate
 *   script=E+E+...    what happens when; E is KIND@WHEN[:VALUE][xCOUNT]
 * WHEN is the number of an execute call, counted from 1, and COUNT how many calls from there on
 * are hit (1); or the name of another member, of which the first COUNT calls are: load, kv
 * (kv_create), page_bytes, zero, copy, identity, export, import, footprint, read
 * (read_logits).
 * KIND:
 *   nan, inf    row number VALUE (0) of the (last) output is all NaN or infinity
 *   error       the call fails; VALUE is the code's name (internal)
 *   oom         the call fails for want of memory
 *   lost        the call and all later ones fail: the device is gone
 *   hang        the call takes VALUE seconds more (3600)
 *   slow        the call takes VALUE milliseconds more (100) */
#ifndef KERNELS_TESTING_FAULT_H
#define KERNELS_TESTING_FAULT_H

#include "serverd/delegate.h"

extern const serverd_delegate fault_delegate;

#endif
