/** An engine in another process gives what one in this process does. */
process.env.TIERED_MOE_TEST_ISOLATION = 'process'
await import('../engine/generate.test.js')
