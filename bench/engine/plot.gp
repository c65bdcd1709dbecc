# The slowdown of each workload, with intervals: data and output are set by the caller.
set terminal svg size 1500,560 font "sans,11" background "white"
set output output
set style data histograms
set style histogram errorbars gap 1.5 lw 0.5
set style fill solid 0.9 noborder
set logscale y
set yrange [0.5:*]
set grid ytics lc rgb "#dddddd"
set border 3
set xtics nomirror rotate by -55 scale 0
set ytics nomirror
set key top left horizontal
set ylabel "slowdown against native (log)"
set title "The same binary, two CPUs: slowdown against native"
plot 1 notitle lc rgb "black" lw 1, \
	data using 2:3:4:xtic(1) title "Alcazar translator" lc rgb "#1b7837", \
	data using 5:6:7 title "QEMU TCG" lc rgb "#d95f02", \
	data using 8:9:10 title "Alcazar interpreter" lc rgb "#bbbbbb"
