/* SPDX-License-Identifier: MIT */
#ifndef TIERFS_CONTROL_PROTOCOL_H
#define TIERFS_CONTROL_PROTOCOL_H

/*
 * The control protocol: how tierctl, or another program, asks a daemon.
 *
 * A stream socket of the file system, CONTROL_DIR/NAME.sock, that anyone may
 * connect to; each request is checked against the credentials the peer had
 * when it connected. Both sides send JSON objects, one a line (JSON escapes
 * what would end a line), of at most CONTROL_LINE_MAX bytes with the newline.
 *
 * One command at a time: the client sends a request and reads answers until
 * an "end"; then it may send the next one.
 *
 * Request
 *   {"version": 1, "command": C, ...}
 *
 *   C          takes                       is allowed to, answers
 *   hello                                  anyone; the mount
 *   status                                 root; the mount in full
 *   status     paths, more                 who can read the file; each file
 *   migrate    paths, more, recursive,     root and the file's owner
 *              release, wait, progress
 *   release    paths, more, recursive,     the same
 *              wait, progress
 *   restore    as release, budget, keep    the same
 *   pin        as release                  the same
 *   unpin      paths, more, recursive      the same
 *   report     paths, more                 who can list and search the
 *                                          directory; each directory. Without
 *                                          paths: the root
 *   find       paths, more, filter         the same; each file in directories
 *                                          that the peer can list and search
 *   unkeep     as release                  the same
 *   queue      all                         root; each job
 *   cancel     job (a number of "queue")   root and who asked for the job
 *   metrics                                root; each family
 *   remount    options, check              root; nothing but the end
 *   check      repair, verify, progress    root; each finding
 *   why        paths, more                 who can read the file; each file
 *   policy-run dry_run                     root; each file that was, or would
 *                                          be, moved, in order
 *   drain      progress                    root; each file that had to be
 *                                          restored, and what failed
 *
 *   paths      an array of paths, each a string or an object, see below
 *   more       true: lines {"paths": [...], "more": true|false} follow, up to
 *              one without more. The daemon reads them as it has room, so a
 *              client must read answers while it writes.
 *   recursive  directories: all below; without it they are refused
 *   release    migrate: drop the data afterwards
 *   wait       false: "end" comes when all is stored as a batch, its number in
 *              "job"; it goes on without the client and after a remount.
 *              Default true.
 *   budget     bytes that may be restored; more than there is room for: error
 *   keep       seconds since 1970: nothing of it is released before
 *   all        jobs that have ended too, and those that work for others
 *   progress   true: "progress" answers about twice a second
 *
 *   repair     true: what can be repaired without losing data is
 *   verify     true: all objects are read and their checksums compared
 *
 *   filter     an object: all that is given must hold. states: an array of
 *              names; size, access, mtime, ctime: [MIN, MAX], both included,
 *              null for no limit, bytes and ns since 1970; uid, gid; name (or
 *              name_hex): a pattern as of fnmatch(3); flags: an array of
 *              "pinned", "damaged"
 *
 *   dry_run    true: only says what would be done
 *
 *   options    what mount -o remount was given, each "KEY" or "KEY=VALUE", or
 *              {"option": ..., "option_hex": ...} as with paths
 *   check      true: says whether it would be done, and changes nothing
 *
 *   While a command runs, {"stop": true} cancels what it has asked for; the
 *   answers so far, and the end, still come. Closing the connection cancels
 *   too. Closing the sending direction alone does not.
 *
 *   Places are few, and fewer for one user. A client that has kept the daemon
 *   waiting for seconds, for a request, for paths or to take answers, is
 *   disconnected when another wants its place; root's is not.
 *
 * Paths
 *   Absolute, below the root of the mount ("/" is the mountpoint); "." and
 *   ".." are not names; symlinks are not followed. The daemon walks them with
 *   the peer's rights. JSON is UTF-8 and file names need not be:
 *     "/a/b"                         a path that is UTF-8
 *     {"path": "/a/b"}               the same
 *     {"path_hex": "2f61ff"}         any path: its bytes in hex
 *     with "as" or "as_hex"          how answers call it; default: the path
 *   In answers "path" is always there, U+FFFD in place of what is not UTF-8;
 *   "path_hex" is there as well when something was replaced.
 *
 * Answers
 *   {"type": "result", "data": {...}}
 *       hello: {"version", "daemon", "name", "mount", "device"}: the device
 *       number of the mount, as "MAJOR:MINOR".
 *       status, queue, report, find: the objects of `tierctl --json`.
 *       commands that move data: {"path", "op", "result", "reason", "bytes"}
 *       with result "done", "already", "refused", "failed"; "queued" when not
 *       waiting, with "id", the batch; "skipped": one for all that a budget
 *       had no room for. Order is that of completion.
 *       policy-run: {"path", "op", "cause", "rule", "size", "result",
 *       "reason", "bytes"}; of a dry run the result is "planned".
 *       metrics: {"family", "type", "help", "unit", "samples": [{"suffix",
 *       "labels": {...}, "value"}]}
 *   {"type": "progress", "files", "files_done", "bytes", "bytes_done",
 *    "complete"}
 *       complete: files and bytes are all there will be.
 *   {"type": "end", "status": S, "reason": "..."}
 *       done     all results are "done", "already" or "queued"; all findings
 *                were repaired. A reason is a note: what was read from the
 *                catalog is incomplete
 *       failed   some are not
 *       denied   the peer may not ask this
 *       error    the request cannot be understood, or the daemon is busy:
 *                reason names it; the daemon closes the connection
 */

#define CONTROL_VERSION	 1
#define CONTROL_DIR	 "/run/tierfs"
#define CONTROL_SUFFIX	 ".sock"
#define CONTROL_LINE_MAX 65536

#endif
