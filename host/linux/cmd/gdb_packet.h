/*
 * gdb_packet.h - framing of the GDB remote protocol: $data#checksum, acknowledgements,
 * hexadecimal. The peer is hostile: everything is bounded, nothing is trusted.
 *
 * "Debugging with GDB", appendix E.
 */
#ifndef HOST_LINUX_CMD_GDB_PACKET_H
#define HOST_LINUX_CMD_GDB_PACKET_H

#include "core/util.h"

#define GDB_PACKET_BYTES 0x4000 /* of data, either way; told by qSupported */

struct gdb_link {
	int fd; /* blocking, with a send timeout */
	bool no_ack;
	/* received, not yet understood */
	char in[GDB_PACKET_BYTES + 64];
	size_t in_bytes;
	/* the packet at hand, NUL-terminated */
	char packet[GDB_PACKET_BYTES + 1];
	/* the reply being made, with room for its frame */
	char out[GDB_PACKET_BYTES + 8];
	size_t out_bytes;
	bool out_full; /* a reply did not fit: it becomes an error */
};

enum gdb_input { GDB_NOTHING, GDB_PACKET, GDB_INTERRUPT, GDB_CLOSED };

void gdb_link_init(struct gdb_link *l, int fd);
/* Reads what is there. False: the peer has gone or talks nonsense without end. */
bool gdb_link_receive(struct gdb_link *l);
/* Takes the next packet (into l->packet) or Ctrl-C out of what was received. */
enum gdb_input gdb_link_next(struct gdb_link *l);

/* A reply is begun, filled and sent. */
void gdb_reply_begin(struct gdb_link *l);
void gdb_reply_text(struct gdb_link *l, const char *fmt, ...) __printf(2, 3);
void gdb_reply_hex(struct gdb_link *l, const void *data, size_t bytes);
void gdb_reply_binary(struct gdb_link *l, const char *data, size_t bytes); /* escaped */
bool gdb_reply_send(struct gdb_link *l);

/* Whole numbers in hexadecimal; advances *@p. False: there is none, or it is too big. */
bool gdb_parse_hex(const char **p, uint64_t *out);
/* Exactly @bytes bytes, two digits each; advances *@p. */
bool gdb_parse_bytes(const char **p, void *out, size_t bytes);
bool gdb_parse_char(const char **p, char c);

#endif
