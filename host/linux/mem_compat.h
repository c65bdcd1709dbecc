/*
 * mem_compat.h - what Debian 12's headers (Linux 6.1, glibc 2.36) may not know yet,
 * and older kernels refuse with EINVAL. Linux' include/uapi/linux/mempolicy.h,
 * include/uapi/asm-generic/mman-common.h, include/uapi/linux/memfd.h.
 */
#ifndef HOST_LINUX_MEM_COMPAT_H
#define HOST_LINUX_MEM_COMPAT_H

#include <numaif.h>
#include <sys/mman.h>

/* Linux 6.9 */
#ifndef MPOL_WEIGHTED_INTERLEAVE
#define MPOL_WEIGHTED_INTERLEAVE 6
#endif

/* Linux 5.14 */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Linux 4.14 */
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4u
#endif
#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

#endif
