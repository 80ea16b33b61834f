/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REACTOR_VERSION_H
#define REACTOR_VERSION_H

/* The one line that --version of every program prints and the service reports (cli.md R106). For
 * people: nobody parses it. */
#define VERSION_TEXT "Perfetto v" PACKAGE_VERSION " (perfetto-c)"

#endif
