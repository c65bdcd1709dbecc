rt.o: tests/guest/rt/rt.h tests/guest/rt/layout.h
tests/guest/rt/layout.h:
