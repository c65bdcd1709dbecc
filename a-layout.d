layout.o: tests/guest/rt/layout.h
