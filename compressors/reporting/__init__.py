"""What a variant gains and loses: examined on the test rows, told as data, as a page, and in pictures."""
