/*
 * sanitizer.h - what tests that count pages have to know of sanitizers: how many pages of its
 * own one takes, at most, for each page that a program touches.
 */
#ifndef TESTS_UNIT_SANITIZER_H
#define TESTS_UNIT_SANITIZER_H

#if defined(__SANITIZE_THREAD__)
#define SHADOW_PAGES 4u
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHADOW_PAGES 4u
#endif
#endif
#ifndef SHADOW_PAGES
#define SHADOW_PAGES 0u
#endif

#endif
