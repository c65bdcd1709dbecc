/* test_cmd_gdb.c - framing and registers of the debugger's protocol. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "host/linux/cmd/gdb_packet.h"
#include "host/linux/cmd/gdb_regs.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- framing ------------------------------------------------------------------------ */

static struct gdb_link peer_link;
static int peer;

static int connect_peer(void **state)
{
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		return -1;
	gdb_link_init(&peer_link, fd[0]);
	peer = fd[1];
	return 0;
}

static int disconnect_peer(void **state)
{
	close(peer_link.fd);
	close(peer);
	return 0;
}

static void say(const char *text, size_t bytes)
{
	assert_int_equal(write(peer, text, bytes), bytes);
	assert_true(gdb_link_receive(&peer_link));
}

static const char *heard(void)
{
	static char buf[GDB_PACKET_BYTES * 2];
	ssize_t n = recv(peer, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

static void packets_are_taken(void **state)
{
	say("+$m1,2#fc", 9);
	assert_int_equal(gdb_link_next(&peer_link), GDB_PACKET);
	assert_string_equal(peer_link.packet, "m1,2");
	assert_string_equal(heard(), "+");
	assert_int_equal(gdb_link_next(&peer_link), GDB_NOTHING);
}

static void packets_come_in_pieces(void **state)
{
	static const char text[] = "$g#67\003$?#3f";

	for (size_t i = 0; i < 4; i++) {
		say(text + i, 1);
		assert_int_equal(gdb_link_next(&peer_link), GDB_NOTHING);
	}
	say(text + 4, sizeof(text) - 5);
	assert_int_equal(gdb_link_next(&peer_link), GDB_PACKET);
	assert_string_equal(peer_link.packet, "g");
	assert_int_equal(gdb_link_next(&peer_link), GDB_INTERRUPT);
	assert_int_equal(gdb_link_next(&peer_link), GDB_PACKET);
	assert_string_equal(peer_link.packet, "?");
	assert_int_equal(gdb_link_next(&peer_link), GDB_NOTHING);
}

static void wrong_checksums_are_refused(void **state)
{
	say("$g#68$g#zz$#00", 14);
	assert_int_equal(gdb_link_next(&peer_link), GDB_PACKET); /* the empty one is right */
	assert_string_equal(peer_link.packet, "");
	assert_string_equal(heard(), "--+");
}

static void endless_packets_end_the_connection(void **state)
{
	char *text = malloc(sizeof(peer_link.in));

	memset(text, '$', sizeof(peer_link.in));
	say(text, sizeof(peer_link.in));
	assert_int_equal(gdb_link_next(&peer_link), GDB_NOTHING);
	assert_false(gdb_link_receive(&peer_link));
	free(text);
}

static void a_peer_that_goes_is_noticed(void **state)
{
	close(peer);
	assert_false(gdb_link_receive(&peer_link));
	peer = -1;
}

static void replies_are_framed(void **state)
{
	gdb_reply_begin(&peer_link);
	gdb_reply_text(&peer_link, "T%02x", 5);
	gdb_reply_hex(&peer_link, "\x01\xab", 2);
	assert_true(gdb_reply_send(&peer_link));
	assert_string_equal(heard(), "$T0501ab#dd");

	gdb_reply_begin(&peer_link);
	gdb_reply_binary(&peer_link, "a#}", 3);
	assert_true(gdb_reply_send(&peer_link));
	assert_string_equal(heard(), "$a}\003}]#bb");
}

static void long_replies_become_errors(void **state)
{
	gdb_reply_begin(&peer_link);
	for (unsigned i = 0; i < GDB_PACKET_BYTES; i++)
		gdb_reply_hex(&peer_link, "x", 1);
	assert_true(gdb_reply_send(&peer_link));
	assert_string_equal(heard(), "$E22#a9");
}

static void hexadecimal_is_bounded(void **state)
{
	static const char *const bad[] = { "", "g", "-1", "10000000000000000" };
	const char *p = "ffffffffffffffff,12";
	uint8_t two[2];
	uint64_t n;

	assert_true(gdb_parse_hex(&p, &n));
	assert_true(n == UINT64_MAX);
	assert_true(gdb_parse_char(&p, ','));
	assert_false(gdb_parse_char(&p, ','));
	assert_true(gdb_parse_bytes(&p, two, 1));
	assert_int_equal(two[0], 0x12);
	assert_false(gdb_parse_bytes(&p, two, 1));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		p = bad[i];
		assert_false(gdb_parse_hex(&p, &n));
	}
	p = "123";
	assert_false(gdb_parse_bytes(&p, two, 2));
}

static void noise_is_survived(void **state)
{
	unsigned seed = 7;

	for (unsigned round = 0; round < 3000; round++) {
		char noise[64];

		for (size_t i = 0; i < sizeof(noise); i++) {
			seed = seed * 1103515245 + 12345;
			noise[i] = "$#+-\003ab01mMgG,:}*"[(seed >> 16) % 17];
		}
		if (write(peer, noise, sizeof(noise)) != sizeof(noise))
			fail();
		if (!gdb_link_receive(&peer_link))
			peer_link.in_bytes = 0; /* a new connection would begin */
		while (gdb_link_next(&peer_link) != GDB_NOTHING)
			assert_true(strlen(peer_link.packet) <= GDB_PACKET_BYTES);
		heard();
	}
}

/* --- registers ----------------------------------------------------------------------- */

static void reg_set_u64(struct cpu_state *s, unsigned n, uint64_t v)
{
	uint8_t in[GDB_REG_BYTES_MAX] = { 0 };

	store_u64(in, v);
	gdb_reg_set(s, n, in);
}

static uint64_t reg_get_u64(const struct cpu_state *s, unsigned n)
{
	uint8_t out[GDB_REG_BYTES_MAX];

	gdb_reg_get(s, n, out);
	return load_u64(out);
}

enum {
	REG_RBX = 1,
	REG_RIP = 16,
	REG_EFLAGS,
	REG_CS,
	REG_ST0 = 24,
	REG_FTAG = 34,
	REG_XMM0 = 40,
	REG_FS_BASE = 57,
	REG_K_GS_BASE = 59,
	REG_EFER = 64
};

static void registers_are_where_gdb_looks(void **state)
{
	struct cpu_state s = { 0 };

	s.gpr[RBX] = 0xb0b;
	s.rip = 0x1234567890;
	s.rflags = 0x202;
	s.seg[SEG_CS].selector = 0x10;
	s.seg[SEG_FS].base = 0xf5;
	s.kernel_gs_base = 0x65;
	s.efer = 0xd01;
	assert_int_equal(gdb_regs_count(), 65);
	assert_int_equal(reg_get_u64(&s, REG_RBX), 0xb0b);
	assert_int_equal(reg_get_u64(&s, REG_RIP), 0x1234567890);
	assert_int_equal(reg_get_u64(&s, REG_EFLAGS), 0x202);
	assert_int_equal(reg_get_u64(&s, REG_CS), 0x10);
	assert_int_equal(reg_get_u64(&s, REG_FS_BASE), 0xf5);
	assert_int_equal(reg_get_u64(&s, REG_K_GS_BASE), 0x65);
	assert_int_equal(reg_get_u64(&s, REG_EFER), 0xd01);
	assert_int_equal(gdb_reg_bytes(REG_EFLAGS), 4);
	assert_int_equal(gdb_reg_bytes(REG_ST0), 10);
	assert_int_equal(gdb_reg_bytes(REG_XMM0), 16);
}

static void every_register_comes_back(void **state)
{
	for (unsigned n = 0; n < gdb_regs_count(); n++) {
		struct cpu_state s = { 0 };
		bool narrow = false;

		if (n == REG_FTAG)
			continue;
		reg_set_u64(&s, n, 0x1122334455667788);
		narrow = reg_get_u64(&s, n) == 0x7788 || reg_get_u64(&s, n) == 0x55667788;
		assert_true(narrow || reg_get_u64(&s, n) == 0x1122334455667788);
		/* and nowhere else */
		for (unsigned other = 0; other < gdb_regs_count(); other++)
			if (other != n && other != REG_FTAG)
				assert_int_equal(reg_get_u64(&s, other), 0);
	}
}

static void tags_have_two_forms(void **state)
{
	struct cpu_state s = { 0 };

	assert_int_equal(reg_get_u64(&s, REG_FTAG), 0xffff); /* all empty */
	s.xsave[3] = 6 << 3;                                 /* TOP is 6: ST0 is R6 */
	s.xsave[4] = 0xc0;                                   /* R6 and R7 are in use */
	store_u64(s.xsave + 32, 1ull << 63);                 /* ST0 is 1.0 */
	store_u16(s.xsave + 32 + 8, 0x3fff);
	assert_int_equal(reg_get_u64(&s, REG_FTAG), 0x4fff); /* R7, ST1, is zero */
	store_u16(s.xsave + 48 + 8, 0x7fff);
	assert_int_equal(reg_get_u64(&s, REG_FTAG), 0x8fff); /* an infinity is special */
	reg_set_u64(&s, REG_FTAG, 0xfffc);
	assert_int_equal(s.xsave[4], 0x01);
}

static void the_description_lists_all(void **state)
{
	char *xml = gdb_regs_xml(), *p = xml;
	unsigned n = 0;

	assert_non_null(xml);
	while ((p = strstr(p, "<reg "))) {
		n++;
		p++;
	}
	assert_int_equal(n, gdb_regs_count());
	assert_non_null(strstr(xml, "</target>"));
	free(xml);
}

#define LINK_TEST(fn) cmocka_unit_test_setup_teardown(fn, connect_peer, disconnect_peer)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		LINK_TEST(packets_are_taken),
		LINK_TEST(packets_come_in_pieces),
		LINK_TEST(wrong_checksums_are_refused),
		LINK_TEST(endless_packets_end_the_connection),
		LINK_TEST(a_peer_that_goes_is_noticed),
		LINK_TEST(replies_are_framed),
		LINK_TEST(long_replies_become_errors),
		LINK_TEST(noise_is_survived),
		cmocka_unit_test(hexadecimal_is_bounded),
		cmocka_unit_test(registers_are_where_gdb_looks),
		cmocka_unit_test(every_register_comes_back),
		cmocka_unit_test(tags_have_two_forms),
		cmocka_unit_test(the_description_lists_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
