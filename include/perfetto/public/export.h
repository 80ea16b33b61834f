/* SPDX-License-Identifier: Apache-2.0 */
/* Marks what libperfetto_c exports. Included by the other headers. */
#ifndef PERFETTO_PUBLIC_EXPORT_H
#define PERFETTO_PUBLIC_EXPORT_H

#define PERFETTO_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
#define PERFETTO_BEGIN_DECLS extern "C" {
#define PERFETTO_END_DECLS   }
#else
#define PERFETTO_BEGIN_DECLS
#define PERFETTO_END_DECLS
#endif

#endif
