from syncer.start import main

main()
