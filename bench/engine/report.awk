# What bench/engine/report makes of a raw file; "stat" and "output" are set by it.
#
# Lines of a raw file: WORD TEXT about the machine, and
#	ROUND ENGINE WORKLOAD NS BEST VARIANT SUM SHARE | ROUND ENGINE WORKLOAD failed
# A figure is an array of the values of its rounds, named "engine workload".

$1 == "what" { what[$2] = substr($0, length($1 $2) + 3); next }
$1 !~ /^[0-9]+$/ { about[$1] = substr($0, length($1) + 2); next }

{
	rounds = $1 > rounds ? $1 : rounds
	if (!($3 in seen)) {
		seen[$3] = 1
		names[++count] = $3
	}
	if ($4 == "failed" || NF < 4) {
		failed[$2 " " $3]++
		next
	}
	if ($6 ~ /x$/)
		ns[$2, "speed-up", $1] = $6 + 0
	ns[$2, $3, $1] = stat == "best" && NF > 4 ? $5 : $4
	variant[$2 " " $3] = $6
	if (NF < 7)
		next
	if (!($3 in sum)) {
		sum[$3] = $7
		sum_by[$3] = $2
	} else if (sum[$3] != $7) {
		wrong[$3] = wrong[$3] " " $2
	}
}

# Sorts list[1..n].
function sort(list, n,    i, j, v)
{
	for (i = 2; i <= n; i++) {
		v = list[i]
		for (j = i - 1; j > 0 && list[j] > v; j--)
			list[j + 1] = list[j]
		list[j + 1] = v
	}
}

# Sets middle, low, high of the first n of list; 0 if there are none.
function summarise(list, n,    k)
{
	middle = low = high = 0
	if (n == 0)
		return 0
	sort(list, n)
	middle = n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
	k = int((n - 1.96 * sqrt(n)) / 2)
	k = k < 0 ? 0 : k
	low = list[1 + k]
	high = list[n - k]
	return n
}

# The figures of one engine, or with another its ratio to that, round by round.
function figure(engine, name, base,    r, n, list)
{
	n = 0
	for (r = 1; r <= rounds; r++) {
		if (!((engine, name, r) in ns) || (base && !((base, name, r) in ns)))
			continue
		list[++n] = ns[engine, name, r] / (base ? ns[base, name, r] : 1)
	}
	return summarise(list, n)
}

# Which of QEMU's processors does this workload better.
function better_tcg(name,    a, b)
{
	a = figure("tcg-max", name) ? middle : 0
	b = figure("tcg-qemu64", name) ? middle : 0
	return a && (!b || a <= b) ? "tcg-max" : b ? "tcg-qemu64" : ""
}

function text(v)
{
	return !v ? "-" : v >= 100 ? sprintf("%.0f", v) : v >= 10 ? sprintf("%.1f", v) : sprintf("%.2f", v)
}

function time_text(v)
{
	return !v ? "-" : v >= 1e9 ? sprintf("%.2f s", v / 1e9) : v >= 1e6 ? sprintf("%.2f ms", v / 1e6) : \
		v >= 1e3 ? sprintf("%.2f us", v / 1e3) : sprintf("%.2f ns", v)
}

function range()
{
	return rounds > 1 && middle ? sprintf("%s-%s", text(low), text(high)) : ""
}

# What is not there is a bar of no height: the axis starts at 0.5.
function bar(v)
{
	return v > 0.5 ? v : 0.5
}

# A geometric mean is the sum of logarithms and their count.
function mean_add(group, v)
{
	if (v > 0) {
		logs[group] += log(v)
		terms[group]++
	}
}

function mean(group)
{
	return terms[group] ? exp(logs[group] / terms[group]) : 0
}

function json_figure(key, engine, name, base)
{
	if (!engine || !figure(engine, name, base))
		return ""
	return sprintf(", \"%s\": { \"median\": %.6g, \"low\": %.6g, \"high\": %.6g }", key, middle, low, high)
}

# What is printed, in columns, with intervals in the table and in the plot.
function column(    line)
{
	plot = plot sprintf(" %s %s %s", bar(middle), bar(low), bar(high))
	return sprintf(" %8s %-13s", text(middle), range())
}

function remarks(name, tcg, lead,    line)
{
	if (variant["native " name] ~ /^[a-z]/)
		line = " " variant["native " name] "/" variant["soft " name] "/" variant[tcg " " name]
	if (lead && lead < 0.95)
		line = line " slower than TCG"
	return line (("soft " name) in failed ? " FAILED" : "")
}

# One workload: a row of the table, a bar of the plot, a term of the means.
function row(name,    tcg, line, soft, far, lead, group)
{
	tcg = better_tcg(name)
	plot = name
	figure("native", name)
	line = sprintf("%-12s %10s", name, time_text(middle))
	soft = figure("soft", name, "native") ? middle : 0
	line = line column()
	far = figure(tcg, name, "native") ? middle : 0
	line = line column()
	mean_add("native/interp", figure("interp", name, "native") ? middle : 0)
	line = line sprintf(" %8s", text(middle))
	column()
	lead = figure(tcg, name, "soft") ? middle : 0
	print line sprintf(" %8s %-13s", text(lead), range()) remarks(name, tcg, lead)
	print plot >(output ".dat")
	if (lead && lead < 0.95)
		losses = losses " " name
	group = !far ? "" : far <= 3 ? " near" : far > 5 ? " far" : " between"
	mean_add("native/soft", soft)
	mean_add("native/tcg", far)
	mean_add("tcg/soft", lead)
	if (group) {
		mean_add("native/soft" group, soft)
		mean_add("native/tcg" group, far)
		mean_add("tcg/soft" group, lead)
	}
}

# Times without a native counterpart: from power-on.
function boot_row(name,    tcg, line)
{
	tcg = better_tcg(name)
	figure("soft", name)
	line = sprintf("%-12s %10s %9s %-12s", name, "", time_text(middle), "")
	figure(tcg, name)
	line = line sprintf(" %9s %-12s", time_text(middle), "")
	figure("interp", name)
	line = line sprintf(" %8s", time_text(middle))
	line = line sprintf(" %8s %-13s", figure(tcg, name, "soft") ? text(middle) : "-", range())
	print line
}

# What two threads do of what one does, times two; QEMU with the better processor for it.
function speed_row(    line)
{
	if (!figure("native", "speed-up"))
		return
	line = sprintf("%-12s %10s", "speed-up", text(middle))
	figure("soft", "speed-up")
	line = line sprintf(" %8s %-13s", text(middle), range())
	figure(better_tcg("parallel"), "speed-up")
	line = line sprintf(" %8s %-13s", text(middle), range())
	figure("interp", "speed-up")
	print line sprintf(" %8s", text(middle))
}

function json_workload(name, first,    e, line, i, n, engines)
{
	line = sprintf("%s\n    { \"name\": \"%s\", \"what\": \"%s\"", first ? "" : ",", name, what[name])
	n = split("native soft interp tcg-max tcg-qemu64", engines, " ")
	for (i = 1; i <= n; i++) {
		e = engines[i]
		line = line json_figure(e "_ns", e, name)
		if (e != "native")
			line = line json_figure(e "_slowdown", e, name, "native")
	}
	if (("soft " name) in failed)
		line = line ", \"soft_failed\": " failed["soft " name]
	return line json_figure("tcg_to_soft", better_tcg(name), name, "soft") " }"
}

function goal(text_, value, limit, unit)
{
	if (value)
		printf "  %-44s %8s %-4s goal %s%s %s\n", text_, text(value), unit, \
			limit < 0 ? ">= " : "<= ", text(limit < 0 ? -limit : limit), \
			(limit < 0 ? value >= -limit : value <= limit) ? "met" : "missed"
}

function soft_ns(name)
{
	return figure("soft", name) ? middle : 0
}

function soft_slow(name)
{
	return figure("soft", name, "native") ? middle : 0
}

# What TCG takes to boot, without its firmware, in s; at most 1.5. 0: not known.
function tcg_boot(    f, tcg)
{
	tcg = better_tcg("boot-1")
	f = tcg && figure(tcg, "start") ? middle : 0
	if (!tcg || !figure(tcg, "boot-1"))
		return 0
	return (middle - f < 1.5e9 ? middle - f : 1.5e9) / 1e9
}

function goals()
{
	print "goals:"
	goal("geometric mean of slowdowns", mean("native/soft"), 1.8, "x")
	goal("faster than TCG, geometric mean", mean("tcg/soft"), -2.2, "x")
	goal("the same where TCG is 5 times slower or more", mean("tcg/soft far"), -3, "x")
	goal("matmul", soft_slow("matmul"), 2, "x")
	goal("triad", soft_slow("triad"), 2, "x")
	goal("copy-large", soft_slow("copy-large"), 2, "x")
	goal("getppid", soft_ns("getppid"), 300, "ns")
	goal("fault", soft_ns("fault") / 1e3, 5, "us")
	goal("fork", soft_ns("fork") / 1e6, 1.2, "ms")
	if (tcg_boot())
		goal("boot, 1 CPU (TCG less its firmware, or 1.5)", \
			soft_ns("boot-1") / 1e9, tcg_boot(), "s")
	goal("boot, 4 CPUs", soft_ns("boot-4") / 1e9, 2, "s")
	goal("speed-up by two threads, of the native one", soft_slow("speed-up"), -0.95, "x")
}

function mean_row(label, group)
{
	printf "%-44s %8s %8s %8s %8s\n", "  " label ": " (terms["native/tcg" group] ? terms["native/tcg" group] : terms["native/soft" group] + 0), \
		text(mean("native/soft" group)), text(mean("native/tcg" group)), \
		group ? "" : text(mean("native/interp")), text(mean("tcg/soft" group))
}

function json(file,    i)
{
	printf "{\n  \"machine\": \"%s\", \"kernel\": \"%s\", \"qemu\": \"%s\",\n", about["machine"], \
		about["kernel"], about["qemu"] >file
	printf "  \"rounds\": %d, \"stat\": \"%s\",\n", rounds, stat >file
	printf "  \"geometric_means\": { \"soft\": %.4g, \"tcg\": %.4g, \"interp\": %.4g, " \
		"\"tcg_to_soft\": %.4g, \"tcg_to_soft_far\": %.4g },\n  \"workloads\": [", \
		mean("native/soft"), mean("native/tcg"), mean("native/interp"), mean("tcg/soft"), \
		mean("tcg/soft far") >file
	for (i = 1; i <= count; i++)
		printf "%s", json_workload(names[i], i == 1) >file
	printf "\n  ]\n}\n" >file
}

function table(    i)
{
	printf "%s; guest kernel %s; QEMU %s\n", about["machine"], about["kernel"], about["qemu"]
	printf "%d rounds, %s of slices; load before and after: %s, %s\n\n", rounds, stat, about["load"], \
		about["load-after"]
	printf "%-12s %10s %8s %-13s %8s %-13s %8s %8s\n", "", "native", "soft", "slowdown", "TCG", \
		"slowdown", "interp", "TCG/soft"
	for (i = 1; i <= count; i++)
		if (names[i] !~ /^(boot-|start)/)
			row(names[i])
	for (i = 1; i <= count; i++)
		if (names[i] ~ /^(boot-|start)/)
			boot_row(names[i])
	speed_row()
	printf "\n%-44s %8s %8s %8s %8s\n", "geometric means", "soft", "TCG", "interp", "TCG/soft"
	mean_row("all")
	mean_row("TCG up to 3 times native", " near")
	mean_row("between", " between")
	mean_row("TCG more than 5 times native", " far")
	print "slower than TCG (0.95):" (losses ? losses : " none")
	goals()
}

END {
	printf "" >(output ".dat")
	table()
	for (f in failed)
		print "FAILED in " failed[f] " of " rounds " rounds: " f
	for (w in wrong)
		print "WRONG sum of " w " by" wrong[w] " (compared with " sum_by[w] ")"
	json(output ".json")
	for (f in failed)
		bad = 1
	for (w in wrong)
		bad = 1
	exit bad
}
